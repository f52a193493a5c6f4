"""A file is written whole or not at all, and what cannot be written is said in words that help."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from doubles.faults import FAULTS, KILL, faulty_disk, killed_at, operations
from instantrt import atomic
from instantrt.atomic import PARTIAL, check_output, output_errors, replace_file, replace_text
from instantrt.errors import OutputError


def partials(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.startswith(PARTIAL[0])]


def test_a_file_is_written_and_replaced_with_its_folders(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.txt"
    replace_text(path, "one")
    replace_text(path, "zwei \u2026")
    assert path.read_text("utf-8") == "zwei \u2026"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_a_new_file_gets_the_usual_permissions_and_an_old_one_keeps_its_own(tmp_path: Path) -> None:
    path, usual = tmp_path / "file", tmp_path / "usual"
    replace_text(path, "1")
    usual.touch()
    assert path.stat().st_mode == usual.stat().st_mode
    path.chmod(0o640)
    replace_text(path, "2")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / "file")
    for text in ("made", "replaced"):
        replace_text(tmp_path / "link", text)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "elsewhere" / "file").read_text() == text


def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(path.read_text()))
    reader.start()
    check_output(path)
    replace_text(path, "through")
    reader.join(10)
    assert read == ["through"]
    assert path.is_fifo()


def test_devices_can_be_outputs() -> None:
    check_output(Path("/dev/null"))
    replace_text(Path("/dev/null"), "gone")
    assert Path("/dev/null").is_char_device()
    with pytest.raises(OutputError, match="No space left on device"):
        replace_text(Path("/dev/full"), "too much")


def test_the_longest_legal_name_can_be_written(tmp_path: Path) -> None:
    longest = tmp_path / ("x" * os.pathconf(tmp_path, "PC_NAME_MAX"))
    check_output(longest)
    replace_text(longest, "fits")
    assert longest.read_text() == "fits"


def old_file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_text("old")
    return path


def the_content_fails(path: Path, error: BaseException) -> None:
    def write(file) -> None:
        file.write(b"half of the n")
        raise error

    replace_file(path, write)


@pytest.mark.parametrize("error", [ValueError("no JSON"), KeyboardInterrupt(), OSError("cannot write mode RGBA")])
def test_a_content_that_cannot_be_made_leaves_the_old_file_and_its_own_error(
    tmp_path: Path, error: BaseException
) -> None:
    path = old_file(tmp_path)
    with pytest.raises(type(error)) as caught:
        the_content_fails(path, error)
    assert caught.value is error
    assert path.read_text() == "old"
    assert partials(tmp_path) == []


def writes_of_a_replacement(tmp_path: Path) -> int:
    path = old_file(tmp_path)
    return len(operations(tmp_path, lambda: replace_text(path, "old")))


@pytest.mark.parametrize("fault", FAULTS)
def test_whichever_write_fails_the_old_file_or_the_new_one_is_there(tmp_path: Path, fault: str) -> None:
    count = writes_of_a_replacement(tmp_path)
    assert count >= 5  # the file, its flush, permissions, the rename, the folder's flush
    for at in range(count):
        path = old_file(tmp_path)
        if FAULTS[fault] == KILL:
            assert killed_at(tmp_path, at, lambda path=path: replace_text(path, "new"))
        else:
            with faulty_disk(tmp_path, at, FAULTS[fault]) as disk, suppress(OutputError):
                replace_text(path, "new")
                assert disk.seen[at].startswith("os.mkdir"), "of a folder that is there"
            assert partials(tmp_path) == []
        assert path.read_text() in ("old", "new")
    replace_text(path, "new")
    assert path.read_text() == "new"


def test_a_real_write_that_fails_half_way_leaves_the_old_file(tmp_path: Path) -> None:
    """Files of the process may grow to 10 kB only."""
    path = old_file(tmp_path)
    code = f"""
import resource
from pathlib import Path
from instantrt import atomic
from instantrt.atomic import replace_text
from instantrt.errors import OutputError
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    replace_text(Path({str(path)!r}), "x" * 1_000_000)
except OutputError as error:
    print(error)
"""
    said = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert "cannot be written" in said
    assert os.strerror(errno.EFBIG) in said
    assert "ulimit -f" in said
    assert path.read_text() == "old"
    assert partials(tmp_path) == []


def a_folder(tmp_path: Path) -> Path:
    return tmp_path


def below_a_file(tmp_path: Path) -> Path:
    return old_file(tmp_path) / "name"


def far_below_a_file(tmp_path: Path) -> Path:
    return old_file(tmp_path) / "folder" / "name"


def a_long_name(tmp_path: Path) -> Path:
    return tmp_path / ("x" * 300)


def a_long_name_in_a_folder_to_be_made(tmp_path: Path) -> Path:
    return tmp_path / "new" / ("x" * 300) / "file"


def a_nul_character(tmp_path: Path) -> Path:
    return tmp_path / "a\0b"


def a_link_to_itself(tmp_path: Path) -> Path:
    path = tmp_path / "loop"
    path.symlink_to(path)
    return path / "file"


def a_system_file(tmp_path: Path) -> Path:
    return Path("/proc/version_of_mine")


IMPOSSIBLE = [
    a_folder,
    below_a_file,
    far_below_a_file,
    a_long_name,
    a_long_name_in_a_folder_to_be_made,
    a_nul_character,
    a_link_to_itself,
    a_system_file,
]


@pytest.mark.parametrize("place", IMPOSSIBLE)
def test_what_cannot_be_written_is_told_before_and_while_writing_in_the_same_words(
    tmp_path: Path, place: Callable[[Path], Path]
) -> None:
    path = place(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    messages = []
    for act in (check_output, lambda path: replace_text(path, "x")):
        with pytest.raises(OutputError) as caught:
            act(path)
        messages.append(str(caught.value))
        assert caught.value.hint
        assert partials(tmp_path) == []
    assert messages[0] == messages[1]
    assert f"{path} cannot be written" in messages[0]
    if place is not a_long_name_in_a_folder_to_be_made:  # whose first folder is made before the second fails
        assert sorted(tmp_path.rglob("*")) == before


def test_looking_ahead_leaves_nothing_and_makes_no_folder(tmp_path: Path) -> None:
    check_output(tmp_path / "a" / "b" / "file")
    check_output(old_file(tmp_path))
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "file"]
    assert (tmp_path / "file").read_text() == "old"


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "MB are free in .*make room"),
        (errno.EACCES, "change the permissions"),
        (errno.EROFS, "file system that can be written"),
        (errno.EISDIR, "name a file"),
        (errno.EIO, "look at that file system"),
    ],
)
def test_each_reason_comes_with_what_to_do(tmp_path: Path, number: int, said: str) -> None:
    with (
        pytest.raises(OutputError, match=f"(?s)cannot be written.*{os.strerror(number)}.*{said}"),
        output_errors(tmp_path),
    ):
        raise OSError(number, os.strerror(number))


def test_a_full_disk_is_found_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = partial(open, "/dev/full", "wb")
    monkeypatch.setattr(atomic.tempfile, "TemporaryFile", lambda **_: full())
    with pytest.raises(OutputError, match=r"(?s)No space left on device; .* MB are free in .*make room there"):
        check_output(tmp_path / "file")
