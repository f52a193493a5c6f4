"""A bundle is replaced as a whole or not at all, whatever fails: the old state or the new one, never neither.

Most tests put small files through the code that publishes every export; two run the real command.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from doubles.faults import FAULTS, KILL, faulty_disk, killed_at, operations
from doubles.graphs import SCHEDULER
from doubles.small import DIMS
from instantrt.bundle import MANIFEST, TOKENIZERS, Bundle, Manifest, PictureSizes, network_files, tokenizer_files
from instantrt.errors import BundleError, OutputError
from instantrt_export import publish as module
from instantrt_export.publish import publish, staging

NETWORKS = ("text_encoder", "unet", "vae_decoder")
LARGE = "unet"  # has its weights beside it


def manifest(networks, sources: Mapping[str, str] | None = None) -> Manifest:
    return Manifest(
        dims=DIMS,
        precision="fp32",
        sizes=PictureSizes((128, 128), (64, 64), (256, 192)),
        slots=(1, 4),
        guidance_batch=(1, 2),
        scheduler=SCHEDULER,
        force_zeros_for_empty_prompt=True,
        networks={name: network_files(name)[0] for name in networks},
        made_by={},
        sources={"unet": "0" * 64} if sources is None else dict(sources),
    )


def export(
    out: Path, content: str, networks=NETWORKS, *, add: bool = False, sources=None, interrupt: bool = False
) -> Manifest:
    """What an export writes: the networks' files with ``content`` in them, and the tokenizers."""
    with staging(out) as staged:
        for name in [*networks, *TOKENIZERS]:
            graph, data = network_files(name) if name in networks else tokenizer_files(name)
            for part in (graph, data) if name in (LARGE, *TOKENIZERS) else (graph,):
                (staged / part).parent.mkdir(exist_ok=True)
                text = content if name in networks else "of the checkpoint"
                (staged / part).write_text(f"{part} {text}")
        if interrupt:
            raise KeyboardInterrupt
        return publish(out, staged, manifest(networks, sources), add=add)


def state(out: Path) -> dict[str, str] | None:
    """The content of every network of a bundle whose files are all whole; None if it is no bundle at all."""
    if not (out / MANIFEST).exists():
        return None
    bundle = Bundle.open(out)
    for name in bundle.manifest.files:
        bundle.file(name)
    contents = {}
    for network, name in bundle.manifest.networks.items():
        parts = [part for part in network_files(network) if part in bundle.manifest.files]
        assert bundle.onnx(network).parent == bundle.path(parts[-1]).parent, "data lies beside its graph"
        texts = {bundle.path(part).read_text().removeprefix(f"{part} ") for part in parts}
        assert len(texts) == 1, "graph and data belong together"
        contents[network] = texts.pop()
        assert name == network_files(network)[0]
    return contents


def files(out: Path) -> set[str]:
    return {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}


def files_of(out: Path) -> set[str]:
    listed = Bundle.open(out).manifest
    return {listed.place(name) for name in listed.files} | {MANIFEST}


ALL_NEW, ALL_OLD = dict.fromkeys(NETWORKS, "new"), dict.fromkeys(NETWORKS, "old")


def first(out: Path) -> None:
    export(out, "new")


def again(out: Path) -> None:
    export(out, "new")


def with_only(out: Path) -> None:
    export(out, "new", ["unet"], add=True)


def with_only_one_more(out: Path) -> None:
    export(out, "new", ["identitynet"], add=True)


ACTS: dict[str, tuple[Callable[[Path], None], dict | None, dict]] = {
    "first export": (first, None, ALL_NEW),
    "exported again": (again, ALL_OLD, ALL_NEW),
    "a network replaced with --only": (with_only, ALL_OLD, ALL_OLD | {"unet": "new"}),
    "a network added with --only": (with_only_one_more, ALL_OLD, ALL_OLD | {"identitynet": "new"}),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("act", ACTS)
def test_whichever_write_of_an_export_fails_the_bundle_is_the_old_or_the_new_one(
    tmp_path: Path, act: str, fault: str
) -> None:
    run, before, after = ACTS[act]
    counted = prepared(tmp_path / "counted", before)
    count = len(operations(counted, lambda: run(counted)))
    assert count > 20
    states = []
    for at in range(count):
        out = prepared(tmp_path / f"out-{at}", before)
        if FAULTS[fault] == KILL:
            assert killed_at(out, at, lambda out=out: run(out))
        else:
            with faulty_disk(out, at, FAULTS[fault]), suppress(OutputError, OSError):
                run(out)
        states.append(state(out))
        assert states[-1] in (before, after), f"operation {at}"
        run(out)
        assert state(out) == after
        assert files(out) == files_of(out), "nothing is left"
    assert before in states
    assert after in states
    assert states == sorted(states, key=lambda one: one == after) or fault != "killed", "no way back"


def prepared(out: Path, before: dict | None) -> Path:
    if before is not None:
        export(out, "old")
    return out


def test_an_export_that_fails_leaves_nothing(tmp_path: Path) -> None:
    before = prepared(tmp_path / "bundle", ALL_OLD)
    listed = files(before)
    for out in (before, tmp_path / "new"):
        with pytest.raises(KeyboardInterrupt):
            export(out, "new", interrupt=True)
    assert files(before) == listed
    assert not (tmp_path / "new").exists()


def test_what_a_killed_export_left_goes_with_the_next_one(tmp_path: Path) -> None:
    out = prepared(tmp_path / "bundle", ALL_OLD)
    killed = [killed_at(out, at, lambda: again(out)) for at in range(2, 40, 3)]
    assert all(killed)
    assert files(out) > files_of(out)
    again(out)
    assert files(out) == files_of(out)


def test_a_running_export_is_not_taken_for_a_killed_one(tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    with staging(out) as slow:
        (slow / "onnx").mkdir()
        (slow / "onnx" / "unet.onnx").write_text("onnx/unet.onnx slow")
        export(out, "fast", ["text_encoder"])
        publish(out, slow, manifest(["unet"]), add=True)
    assert state(out) == {"text_encoder": "fast", "unet": "slow"}
    assert files(out) == files_of(out)


def test_two_exports_that_add_at_once_lose_nothing(tmp_path: Path) -> None:
    out = prepared(tmp_path / "bundle", ALL_OLD)
    code = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from export.test_faults import export
for number in range(5):
    export(Path(sys.argv[2]), f"{sys.argv[3]} {number}", [sys.argv[3]], add=True)
"""
    tests = str(Path(__file__).parents[1])
    running = [
        subprocess.Popen([sys.executable, "-c", code, tests, str(out), name])
        for name in ("identitynet", "time_embedding", "unet")
    ]
    assert [process.wait(120) for process in running] == [0, 0, 0]
    added = {name: f"{name} 4" for name in ("identitynet", "time_embedding", "unet")}
    assert state(out) == ALL_OLD | added
    assert files(out) == files_of(out)


def test_a_reader_at_any_instant_finds_a_whole_bundle(tmp_path: Path) -> None:
    """Between any two operations of an export, another process opens the bundle and reads every file."""
    out = prepared(tmp_path / "bundle", ALL_OLD)
    seen = []

    class Reader(list):
        def append(self, operation: str) -> None:
            super().append(operation)
            seen.append(json.dumps(state(out)))

    with faulty_disk(out) as disk:
        disk.seen = Reader()
        again(out)
    assert set(seen) == {json.dumps(ALL_OLD), json.dumps(ALL_NEW)}
    assert seen == sorted(seen, key=lambda one: one == json.dumps(ALL_NEW))


def test_files_that_came_out_the_same_stay_where_they_are(tmp_path: Path) -> None:
    out = prepared(tmp_path / "bundle", ALL_OLD)
    inodes = {name: (out / name).stat().st_ino for name in files(out) - {MANIFEST}}
    export(out, "old")
    assert {name: (out / name).stat().st_ino for name in inodes} == inodes
    export(out, "new", ["unet"], add=True)
    kept = {name for name in inodes if "unet" not in name}
    assert {name: (out / name).stat().st_ino for name in kept} == {name: inodes[name] for name in kept}


def test_places_are_taken_by_turns(tmp_path: Path) -> None:
    out = prepared(tmp_path / "bundle", ALL_OLD)
    places = []
    for content in ("1", "2", "3"):
        export(out, content)
        places.append(Bundle.open(out).onnx("unet").relative_to(out).as_posix())
        assert files(out) == files_of(out)
    assert places == ["second/onnx/unet.onnx", "onnx/unet.onnx", "second/onnx/unet.onnx"]


def test_strange_files_stay_and_do_not_belong_to_the_bundle(tmp_path: Path) -> None:
    out = prepared(tmp_path / "bundle", ALL_OLD)
    strange = {"picture.png", ".git/HEAD", "onnx/notes.txt", "onnx/mine.onnx", "second/thoughts.txt", "plans/x/y.plan"}
    for name in strange:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("mine")
    for add in (True, False):
        export(out, f"new {add}", add=add)
        assert not strange & set(Bundle.open(out).manifest.files)
        assert strange < files(out)
        assert files(out) == files_of(out) | strange


def test_another_checkpoint_of_the_same_sizes_is_not_mixed_in(tmp_path: Path) -> None:
    out = prepared(tmp_path / "bundle", ALL_OLD)
    with pytest.raises(BundleError, match=r"(?s)exported differently.*another checkpoint: unet differ.*without --only"):
        export(out, "new", ["unet"], add=True, sources={"unet": "1" * 64})
    assert state(out) == ALL_OLD
    assert files(out) == files_of(out)


def test_a_bundle_that_does_not_say_what_it_was_made_from_gets_nothing_added(tmp_path: Path) -> None:
    export(tmp_path, "old", sources={})
    with pytest.raises(BundleError, match="it does not say which checkpoint it was made from"):
        export(tmp_path, "new", ["unet"], add=True)


def test_a_damaged_bundle_gets_a_network_added_only_with_those_that_are_damaged(tmp_path: Path) -> None:
    out = prepared(tmp_path / "bundle", ALL_OLD)
    (out / "onnx" / "vae_decoder.onnx").unlink()
    with pytest.raises(BundleError, match=r"(?s)missing or truncated.*vae_decoder.*after --only as well: vae_decoder"):
        export(out, "new", ["unet"], add=True)
    export(out, "new", ["unet", "vae_decoder"], add=True)
    assert state(out) == ALL_NEW | {"text_encoder": "old"}


def test_damaged_files_are_replaced_even_if_they_come_out_the_same(tmp_path: Path) -> None:
    out = prepared(tmp_path / "bundle", ALL_OLD)
    (out / "onnx" / "unet.onnx.data").write_text("truncat")
    (out / "tokenizer" / "tokenizer.json").unlink()
    export(out, "old", ["unet"], add=True)
    assert state(out) == ALL_OLD
    assert files(out) == files_of(out)


def test_an_unreadable_manifest_is_replaced_by_a_whole_export_only(tmp_path: Path) -> None:
    out = prepared(tmp_path / "bundle", ALL_OLD)
    (out / MANIFEST).write_text("{")
    with pytest.raises(BundleError, match="cannot be read as a manifest"):
        export(out, "new", ["unet"], add=True)
    export(out, "new")
    assert state(out) == ALL_NEW
    assert files(out) == files_of(out)


def test_files_of_a_bundle_in_another_format_are_kept_until_it_is_replaced(tmp_path: Path) -> None:
    out = prepared(tmp_path / "bundle", ALL_OLD)
    data = json.loads((out / MANIFEST).read_text())
    (out / MANIFEST).write_text(json.dumps({**data, "format": 1}))
    before = {name: (out / name).read_text() for name in files(out)}
    count = len(operations(out, lambda: export(tmp_path / "other", "new")))
    for at in range(count + 20):
        with faulty_disk(out, at), suppress(OutputError, OSError):
            export(out, "new")
            break
        assert {name: (out / name).read_text() for name in before} == before or state(out) == ALL_NEW
    assert state(out) == ALL_NEW


def test_a_linked_manifest_and_linked_files_are_replaced_and_not_written_through(tmp_path: Path) -> None:
    """As in a hub's cache, where every file is a link to one that others share."""
    shared, out = prepared(tmp_path / "shared", ALL_OLD), tmp_path / "bundle"
    for name in files(shared):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).symlink_to(shared / name)
    export(out, "new")
    assert state(out) == ALL_NEW
    assert state(shared) == ALL_OLD


def test_an_old_file_that_cannot_be_removed_is_told_and_no_failure(tmp_path: Path, monkeypatch, caplog) -> None:
    out = prepared(tmp_path / "bundle", ALL_OLD)
    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path.name == "unet.onnx":
            raise PermissionError(13, "Permission denied")
        unlink(path, missing_ok)

    monkeypatch.setattr(module.Path, "unlink", refuse)
    export(out, "new")
    assert "is not needed any more and cannot be removed" in caplog.text
    assert state(out) == ALL_NEW


@pytest.mark.parametrize("place", ["file", "file/bundle", "x" * 300])
def test_a_place_that_cannot_be_written_is_told_in_our_words(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        export(tmp_path / place, "new")
    assert files(tmp_path) == {"file"}
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]
