"""The bundle name `nano`: which folder it stands for, when it is exported, and what happens when it cannot be."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from doubles.graphs import projection, write_bundle
from instantrt.bundle import MANIFEST
from instantrt.cli import bundles, main
from instantrt.cli.bundles import find_bundle, temporary_cache, user_cache
from instantrt.errors import OutputError
from instantrt.lock import locked

REQUEST = ["--face", "photo.png", "--prompt", "a person", "--out", "a.png"]


@pytest.fixture
def photo(tmp_path, astronaut, monkeypatch):
    """What ``REQUEST`` names: it is looked at before a bundle is."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(astronaut).save("photo.png")


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The export replaced by one that writes a bundle without networks; the folders it wrote."""
    from instantrt_nano import bundle

    written: list[Path] = []

    def write(checkpoint: object, out: Path, sizes: object, *, check_parity: bool) -> None:
        write_bundle(out, {})
        written.append(out)

    monkeypatch.setattr(bundle, "write_bundle", write)
    return written


def test_a_folder_is_itself(tmp_path):
    assert find_bundle(str(tmp_path), None) == tmp_path


def test_a_bundle_in_a_folder_called_nano_goes_before_the_package(tmp_path, monkeypatch, exports):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nano").mkdir()
    (tmp_path / "nano" / MANIFEST).touch()
    assert find_bundle("nano", None) == Path("nano")
    assert exports == []


@pytest.mark.usefixtures("photo")
@pytest.mark.parametrize("make", [Path.mkdir, Path.touch], ids=["folder", "file"])
def test_what_is_called_nano_and_is_no_bundle_does_not_hide_it(make, tmp_path, monkeypatch, exports, capsys):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "nano")
    assert find_bundle("nano", tmp_path / "cache").parent == tmp_path / "cache"
    assert "warning: nano here is no bundle" in capsys.readouterr().err
    assert find_bundle("./nano", tmp_path / "cache") == Path("nano"), "a path is a path"
    assert main(["generate", "./nano", *REQUEST]) == 1


def test_nano_is_exported_once_into_the_cache_and_says_so(tmp_path, monkeypatch, exports, capsys):
    monkeypatch.chdir(tmp_path)
    cache = tmp_path / "cache"
    folder = find_bundle("nano", cache)
    assert folder.parent == cache
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    said = capsys.readouterr()
    assert said.out == ""
    assert str(folder) in said.err
    assert find_bundle("nano", cache) == folder
    assert len(exports) == 1
    assert capsys.readouterr().err == ""


def test_another_checkpoint_or_version_has_a_bundle_of_its_own(tmp_path, monkeypatch, exports):
    from instantrt_nano import bundle

    first = bundle.cached_bundle(tmp_path)
    monkeypatch.setattr(bundle, "checkpoint_digest", lambda folder: "0" * 64)
    second = bundle.cached_bundle(tmp_path)
    monkeypatch.setattr(bundle, "__version__", "99")
    assert len({first, second, bundle.cached_bundle(tmp_path)}) == 3


def test_an_export_that_fails_leaves_nothing(tmp_path, monkeypatch):
    from instantrt_nano import bundle

    def fail(checkpoint: object, out: Path, sizes: object, *, check_parity: bool) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(bundle, "write_bundle", fail)
    with pytest.raises(RuntimeError):
        bundle.cached_bundle(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_of_two_exports_at_once_the_second_waits_and_takes_the_first_ones(tmp_path, exports, capsys):
    from instantrt_nano import bundle

    cache = tmp_path / "cache"
    folder = bundle.cached_bundle(tmp_path / "probe")  # its name
    cache.mkdir()
    with ThreadPoolExecutor() as pool, locked(cache / f"{folder.name}.lock"):
        waiting = pool.submit(bundle.cached_bundle, cache)
        while "waiting for another export" not in capsys.readouterr().err:
            time.sleep(0.02)
        write_bundle(cache / folder.name, {})
    assert waiting.result() == cache / folder.name
    assert len(exports) == 1
    assert [path.name for path in cache.iterdir()] == [folder.name]


@pytest.mark.parametrize("damage", ["no manifest", "a broken manifest", "a truncated file"])
def test_a_damaged_bundle_in_the_cache_is_exported_again(tmp_path, exports, damage):
    from instantrt_nano import bundle

    folder = bundle.cached_bundle(tmp_path)
    if damage == "no manifest":
        (folder / MANIFEST).unlink()
    elif damage == "a broken manifest":
        (folder / MANIFEST).write_text("{")
    else:
        write_bundle(folder, {"image_projection": projection()})
        (folder / "onnx" / "image_projection.onnx").write_bytes(b"half")
    assert bundle.cached_bundle(tmp_path) == folder
    assert len(exports) == 2


def test_a_cache_that_cannot_be_written_is_a_users_mistake_and_found_before_the_export(tmp_path, exports):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file/cache cannot be written"):
        find_bundle("nano", tmp_path / "file" / "cache")
    assert exports == []


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The system's temporary folder."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.mark.parametrize("home", ["/proc/nowhere", None], ids=["a home that cannot be written", "no home"])
def test_without_a_usable_home_nano_is_kept_in_a_temporary_folder_with_a_warning(
    home, temporary, monkeypatch, exports, capsys
):
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: Path(home) if home else homeless())
    folder = find_bundle("nano", None)
    assert folder.parent.parent == temporary
    warning = capsys.readouterr().err
    assert warning.startswith("warning: ")
    assert str(folder.parent) in warning
    assert "--cache" in warning
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
    assert find_bundle("nano", None) == folder
    assert len(exports) == 1


def homeless():
    raise RuntimeError("Could not determine home directory.")


def test_a_cache_that_can_only_be_read_gives_what_is_in_it(tmp_path, monkeypatch, exports):
    folder = find_bundle("nano", tmp_path / "cache")
    monkeypatch.setattr("instantrt_nano.bundle.check_folder", homeless)
    assert find_bundle("nano", tmp_path / "cache") == folder


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="users have temporary folders of their own here")
def test_a_temporary_folder_that_others_may_write_is_not_trusted(temporary):
    folder = temporary_cache()
    folder.chmod(0o777)
    with pytest.raises(OutputError, match="not a folder of this user alone\nFound: drwxrwxrwx"):
        temporary_cache()
    folder.rmdir()
    folder.symlink_to(temporary / "elsewhere")
    (temporary / "elsewhere").mkdir()
    with pytest.raises(OutputError, match="not a folder of this user alone\nFound: l"):
        temporary_cache()


def test_without_any_temporary_folder_the_message_says_what_to_do(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/proc/nowhere")
    with pytest.raises(OutputError, match="--cache"):
        temporary_cache()


@pytest.mark.usefixtures("photo")
def test_without_the_export_extra_the_message_names_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "instantrt_nano.bundle", None)
    assert main(["generate", "nano", *REQUEST, "--cache", str(tmp_path)]) == 1
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
