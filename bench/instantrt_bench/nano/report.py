"""The whole report: everybody, every style and pose, then what the strengths, the mask and few steps do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from instantrt import InstantID
from instantrt_bench.identity.face_conditions import CheckpointEncoder
from instantrt_bench.identity.judges.judge import encoder_judge, faceres_judge
from instantrt_bench.nano.cases import Asked, asked, filtered_photos, unseen, with_options
from instantrt_bench.nano.evaluate import Evaluation, Seen, centre_shifts_px, figures, grouped
from instantrt_bench.nano.style_check import StyleCheck
from instantrt_bench.results.machine import machine_facts
from instantrt_export.checkpoint import Checkpoint
from instantrt_nano.digests import checkpoint_digest
from instantrt_nano.maker import TRAINED
from instantrt_nano.training.people import PEOPLE

MIN_OFFSET_PX = 6.0  # from the middle of the picture: an off-centre pose
EXAMPLES_PER_STYLE = 40  # of each person, for the style check
ADAPTER_STRENGTHS = (0.0, 0.4, 0.8)
SWEEP_STEPS = 10


@dataclass(frozen=True)
class Findings:
    """What was found.

    Args:
        facts: nano.json.
        seen: by number of steps, all pictures of the main part.
        by_strength: by what was varied, the pictures of the same cases.
    """

    facts: dict[str, Any]
    seen: Mapping[int, list[Seen]]
    by_strength: Mapping[str, list[Seen]]


def evaluate(runtime: InstantID, poses: int, steps: Sequence[int], progress: Callable[[int, int], None]) -> Findings:
    """Everything, on a runtime of the trained checkpoint.

    Args:
        runtime: of the bundle.
        poses: per person and style.
        steps: the numbers of denoising steps of the main part.
        progress: called with (pictures done, pictures in all).
    """
    styles = StyleCheck(*_labelled(EXAMPLES_PER_STYLE, seed=1))
    encoder = encoder_judge(CheckpointEncoder(Checkpoint.open(str(TRAINED))).embed)
    evaluation = Evaluation(runtime, encoder, faceres_judge(), styles)
    varied = _variations(poses)
    plan = {f"{n} steps": list(asked(poses, n)) for n in steps} | varied
    total, done = sum(len(cases) for cases in plan.values()), 0
    seen: dict[str, list[Seen]] = {}
    for name, cases in plan.items():
        seen[name] = []
        for case in cases:
            seen[name].append(evaluation.see(case))
            done += 1
            progress(done, total)
    main = {n: seen[f"{n} steps"] for n in steps}
    facts = _facts(evaluation, main, seen) | {
        "style_check_accuracy": styles.accuracy(*_labelled(EXAMPLES_PER_STYLE // 4, seed=2)),
        "checkpoint_mb": round(sum(file.stat().st_size for file in TRAINED.rglob("*") if file.is_file()) / 1e6, 2),
        "checkpoint_digest": checkpoint_digest(TRAINED),
        "poses": poses,
        "machine": machine_facts(),
    }
    return Findings(facts, main, {name: seen[name] for name in varied})


def _labelled(count: int, seed: int) -> tuple[list[Any], list[str]]:
    """Filtered photos, and their styles."""
    by_style = filtered_photos(count, seed)
    return [p for pictures in by_style.values() for p in pictures], [
        s for s, pictures in by_style.items() for _ in pictures
    ]


def _variations(poses: int) -> dict[str, list[Asked]]:
    """Everybody as a photo, with other options than the main part's."""
    photos = [case for case in asked(poses, SWEEP_STEPS) if case.style == "photo"]
    quick = [case for case in asked(poses, 4) if case.style == "photo"]
    return {
        **{f"adapter {s:g}": list(with_options(photos, adapter_strength=s)) for s in ADAPTER_STRENGTHS},
        "identity 0": list(with_options(photos, identity_strength=0.0)),
        "no region": list(with_options(photos, enhance_face_region=False)),
        "guidance 1": list(with_options(photos, guidance_scale=1.0)),
        "few steps": quick,
        "few lcm steps": list(with_options(quick, sampler="lcm", guidance_scale=1.0)),
        "unseen": list(unseen(poses, SWEEP_STEPS)),
    }


def _facts(evaluation: Evaluation, main: Mapping[int, list[Seen]], seen: Mapping[str, list[Seen]]) -> dict[str, Any]:
    judges, everything = evaluation.judges, [one for seen in main.values() for one in seen]
    encoder, placed = judges[0], seen[f"adapter {ADAPTER_STRENGTHS[-1]:g}"]
    shifts = centre_shifts_px(placed, seen["identity 0"], MIN_OFFSET_PX)
    facts = figures(everything, judges)
    by_style = grouped(everything, lambda one: one.asked.style, judges)
    facts["photo_same_identity_distance_median"] = by_style["photo"].get("same_identity_distance_median")
    return facts | {
        "by_style": by_style,
        "by_person": grouped(everything, lambda one: one.asked.person, judges),
        "by_steps": {str(n): figures(seen, judges) for n, seen in main.items()},
        "adapter_strength": {f"{s:g}": figures(seen[f"adapter {s:g}"], judges) for s in ADAPTER_STRENGTHS},
        "identity_strength_0": {
            **figures(seen["identity 0"], judges),
            "off_centre_faces": len(shifts),
            "centre_shift_px_mean": round(float(np.mean(shifts)), 2) if shifts else None,
        },
        "region_mask": _region_effect(placed, seen["no region"]) | figures(seen["no region"], judges),
        "guidance_1": figures(seen["guidance 1"], judges),
        "4_steps": figures(seen["few steps"], judges),
        "4_lcm_steps": figures(seen["few lcm steps"], judges),
        "unseen": _unseen(seen["unseen"], encoder),
        "between_people": evaluation.between_people(),
    }


def _region_effect(masked: Sequence[Seen], free: Sequence[Seen]) -> dict[str, float]:
    differences = [np.abs(a.picture.astype(int) - b.picture).mean() for a, b in zip(masked, free, strict=True)]
    return {"mean_difference_grey_levels": round(float(np.mean(differences)), 2)}


def _unseen(seen: Sequence[Seen], encoder: str) -> dict[str, Any]:
    """How near the pictures come to the unseen person, and to whom of those known they come nearest."""
    faces = [one for one in seen if one.detected]
    nearest = [one.nearest_other(encoder) for one in faces]
    names = [min(PEOPLE, key=one.distances[encoder].__getitem__) for one in faces]
    return {
        "pictures": len(seen),
        "detection_rate": len(faces) / len(seen),
        "own_distance_median": round(float(np.median([one.same(encoder) for one in faces])), 3) if faces else None,
        "nearest_known_distance_median": round(float(np.median(nearest)), 3) if faces else None,
        "nearest_known": {name: names.count(name) for name in sorted(set(names))},
    }
