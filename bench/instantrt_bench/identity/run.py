"""`instantrt bench identity`: likeness of the runtime's faces to the photo, beside the reference's."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from instantrt.cli.command import ExitStatus, ProgressDisplay, print_json
from instantrt_bench.cases.cases import Case
from instantrt_bench.cases.loading import Loaded, load_cases, pipelines
from instantrt_bench.identity.arguments import IdentityOptions
from instantrt_bench.identity.face_conditions import CheckpointEncoder
from instantrt_bench.identity.judges.judge import Judge, encoder_judge, faceres_judge, insightface_judges
from instantrt_bench.identity.pairs import IdentityBench, IdentityLimits, summarise_identity
from instantrt_bench.identity.panel import Panel
from instantrt_bench.results.files import ResultFile, ScenarioResult
from instantrt_bench.results.pictures import PictureFolder


def run_identity(options: IdentityOptions) -> ExitStatus:
    """Judge, write the result file after every scenario, report: ``MISSED`` unless the verdict is content."""
    loaded = load_cases(options, options.seeds, [options.sampler])
    limits = IdentityLimits(options.max_delta, options.max_detection_loss)
    encoder = CheckpointEncoder(loaded.checkpoint)
    judges = _judges(loaded, encoder, options.insightface.expanduser())
    recorded = loaded.options | {"limits": asdict(limits), "judges": [judge.name for judge in judges]}
    results = ResultFile.new("identity", bundle=loaded.bundle, threads=loaded.threads, options=recorded)
    complete = False
    with pipelines(loaded) as (runtime, reference), ProgressDisplay() as display:
        panel, pictures = Panel(runtime.faces.find, judges), PictureFolder(options.out)
        bench = IdentityBench(runtime, reference, encoder, panel, loaded.system, loaded.computed_in, pictures)
        try:
            for scenario in _scenarios(bench, loaded, display):
                results = results.with_scenario(scenario)
                results.write(options.out)
            complete = True
        finally:
            summary = summarise_identity(
                results.scenarios, judges, bench.people, limits, loaded.system, complete=complete
            )
            results = replace(results, summary=summary)
            results.write(options.out)
    _report(results, options.out, as_json=options.json)
    fine = ("pass",) if options.require_verdict else ("pass", "not judged")
    return ExitStatus.DONE if results.summary["verdict"] in fine else ExitStatus.MISSED


def _judges(loaded: Loaded, encoder: CheckpointEncoder, insightface: Path) -> list[Judge]:
    """The independent ones first."""
    packs = insightface_judges(insightface, loaded.checkpoint.face_models.encoder)
    return [*packs, faceres_judge(), encoder_judge(encoder.embed)]


def _scenarios(bench: IdentityBench, loaded: Loaded, display: ProgressDisplay) -> Iterator[ScenarioResult]:
    first_of: dict[str, Case] = {}
    for case in loaded.cases:
        first_of.setdefault(case.photo.id, case)
    progress, total = display.task("identity"), len(first_of) + len(loaded.cases)
    for done, case in enumerate(first_of.values()):
        progress(done, total)
        yield bench.conditions(case)
    for done, case in enumerate(loaded.cases, len(first_of)):
        progress(done, total)
        yield bench.case(case)
    progress(total, total)


def _report(results: ResultFile, out: Path, *, as_json: bool) -> None:
    summary = results.summary
    if as_json:
        print_json(summary)
        return
    lines = [f"{summary['cases']} pairs of pictures, face conditions of {summary['conditions_checked']} photos"]
    for name, found in summary["judges"].items():
        kind = "independent" if found["independent"] else "conditions the pictures"
        lines.append(f"  {name:<24} {kind:<24} {found['pairs']} pairs with faces: {found['verdict']}")
    lines.append(summary["statement"])
    lines += [f"FAILED {name}: {'; '.join(why)}" for name, why in summary["failures"].items()]
    lines += [f"verdict: {summary['verdict']}", str(out)]
    sys.stdout.write("\n".join(lines) + "\n")
