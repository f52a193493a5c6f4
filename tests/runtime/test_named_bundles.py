"""The bundle name `nano`: which folder it stands for, when it is exported, and what happens when it cannot be."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from instantrt.bundle import MANIFEST
from instantrt.cli import bundles, main
from instantrt.cli.bundles import find_bundle, user_cache
from instantrt.errors import BundleError


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The export replaced by one that writes an empty manifest; the folders it wrote."""
    from instantrt_nano import bundle

    written: list[Path] = []

    def write(checkpoint: object, out: Path, sizes: object, *, check_parity: bool) -> None:
        out.mkdir(parents=True)
        (out / MANIFEST).touch()
        written.append(out)

    monkeypatch.setattr(bundle, "write_bundle", write)
    return written


def test_a_folder_is_itself(tmp_path):
    assert find_bundle(tmp_path, None) == tmp_path


def test_a_folder_called_nano_goes_before_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nano").mkdir()
    assert find_bundle(Path("nano"), None) == Path("nano")


def test_nano_is_exported_once_into_the_cache_and_says_so(tmp_path, monkeypatch, exports, capsys):
    monkeypatch.chdir(tmp_path)
    cache = tmp_path / "cache"
    folder = find_bundle(Path("nano"), cache)
    assert folder.parent == cache
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    said = capsys.readouterr()
    assert said.out == ""
    assert str(folder) in said.err
    assert find_bundle(Path("nano"), cache) == folder
    assert len(exports) == 1
    assert capsys.readouterr().err == ""


def test_another_checkpoint_or_version_has_a_bundle_of_its_own(tmp_path, monkeypatch, exports):
    from instantrt_nano import bundle

    first = bundle.cached_bundle(tmp_path)
    monkeypatch.setattr(bundle, "checkpoint_digest", lambda folder: "0" * 64)
    second = bundle.cached_bundle(tmp_path)
    monkeypatch.setattr(bundle, "version", lambda name: "99")
    assert len({first, second, bundle.cached_bundle(tmp_path)}) == 3


def test_an_export_that_fails_leaves_nothing(tmp_path, monkeypatch):
    from instantrt_nano import bundle

    def fail(checkpoint: object, out: Path, sizes: object, *, check_parity: bool) -> None:
        out.mkdir(parents=True)
        raise RuntimeError("out of memory")

    monkeypatch.setattr(bundle, "write_bundle", fail)
    with pytest.raises(RuntimeError):
        bundle.cached_bundle(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_of_two_exports_at_once_the_first_is_kept(tmp_path, monkeypatch, exports):
    from instantrt_nano import bundle

    write = bundle.write_bundle

    def overtaken(checkpoint: object, out: Path, sizes: object, *, check_parity: bool) -> None:
        final = out.with_name(out.name.rpartition(".")[0])
        final.mkdir()
        (final / MANIFEST).write_text("theirs")
        write(checkpoint, out, sizes, check_parity=check_parity)

    monkeypatch.setattr(bundle, "write_bundle", overtaken)
    assert (bundle.cached_bundle(tmp_path) / MANIFEST).read_text() == "theirs"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_cache_that_cannot_be_written_is_a_users_mistake(tmp_path, exports):
    (tmp_path / "file").touch()
    with pytest.raises(BundleError, match="--cache"):
        find_bundle(Path("nano"), tmp_path / "file" / "cache")


def test_without_the_export_extra_the_message_names_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "instantrt_nano.bundle", None)
    out = ["--face", "x.png", "--prompt", "y", "--out", str(tmp_path / "z.png"), "--cache", str(tmp_path)]
    assert main(["generate", "nano", *out]) == 1
    assert 'pip install "instantrt[export]"' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {"XDG_CACHE_HOME": "/x"}, Path("/x/instantrt")),
        ("linux", {}, Path("/home/me/.cache/instantrt")),
        ("darwin", {}, Path("/home/me/Library/Caches/instantrt")),
        ("win32", {"LOCALAPPDATA": "/l"}, Path("/l/instantrt/Cache")),
        ("win32", {}, Path("/home/me/AppData/Local/instantrt/Cache")),
    ],
)
def test_the_cache_lies_where_the_platform_keeps_such_things(platform, variables, expected, monkeypatch):
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(bundles.sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: Path("/home/me"))
    assert user_cache() == expected
