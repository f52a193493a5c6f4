"""Result files, histories and report pages are the old ones or the new ones, whatever fails while they are written."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from doubles.faults import FAULTS, KILL, faulty_disk, killed_at, operations
from instantrt.atomic import PARTIAL
from instantrt.errors import OutputError
from instantrt_bench.regression.history import keep
from instantrt_bench.report.arguments import ReportOptions
from instantrt_bench.report.run import run_report
from instantrt_bench.results.files import ResultFile, ScenarioResult, SystemResult, read_results
from instantrt_bench.results.pictures import PictureFolder
from instantrt_bench.results.statistics import summarise

OLD, NEW = "2026-01-01T00:00:00+00:00", "2026-01-02T00:00:00+00:00"


def results(created: str) -> ResultFile:
    samples = [1.5, 2.5]
    system = SystemResult("ok", samples={"latency_ms": samples}, summary={"latency_ms": summarise(samples)})
    empty = ResultFile.new("latency", bundle=None, threads=2, options={})
    return replace(empty.with_scenario(ScenarioResult("a", {}, {"reference-eager": system})), created=created)


def write_results(folder: Path, created: str) -> None:
    results(created).write(folder / "latency.json")


def results_in(folder: Path) -> str:
    return read_results(folder / "latency.json").created


def write_history(folder: Path, created: str) -> None:
    (path,) = folder.glob("*_latency_*.json") if created == NEW else [folder / "none"]
    keep(results(created), folder)
    path.unlink(missing_ok=True)


def history_in(folder: Path) -> str:
    return max(read_results(path).created for path in folder.glob("*_latency_*.json"))


def write_picture(folder: Path, created: str) -> None:
    pixels = np.full((32, 32, 3), 10 if created == OLD else 200, np.uint8)
    PictureFolder(folder / "fidelity.json").keep("case", {"runtime": pixels})


def picture_in(folder: Path) -> str:
    with Image.open(folder / "fidelity-pictures" / "case-runtime.png") as image:
        colours = image.getcolors()
    return {((1024, (10, 10, 10)),): OLD, ((1024, (200, 200, 200)),): NEW}[tuple(colours)]


def write_report(folder: Path, created: str) -> None:
    source = folder.with_name("source.json")
    results(created).write(source)
    run_report(ReportOptions(results=[source], out=folder / "report.html"))


def report_in(folder: Path) -> str:
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.rstrip().endswith("</html>")
    return OLD if OLD[:10] in page else NEW


WRITERS: dict[str, tuple[Callable[[Path, str], None], Callable[[Path], str]]] = {
    "results": (write_results, results_in),
    "history": (write_history, history_in),
    "picture": (write_picture, picture_in),
    "report": (write_report, report_in),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("writer", WRITERS)
def test_whichever_write_fails_the_old_file_or_the_new_one_is_there(tmp_path: Path, writer: str, fault: str) -> None:
    write, read = WRITERS[writer]
    counted = tmp_path / "counted"
    counted.mkdir()
    write(counted, OLD)
    count = len(operations(counted, lambda: write(counted, NEW)))
    assert count >= 3
    states = []
    for at in range(count):
        folder = tmp_path / f"{at}"
        folder.mkdir()
        write(folder, OLD)
        if FAULTS[fault] == KILL:
            assert killed_at(folder, at, lambda folder=folder: write(folder, NEW))
        else:
            with faulty_disk(folder, at, FAULTS[fault]), suppress(OutputError, OSError):
                write(folder, NEW)
            assert not [path for path in folder.rglob("*") if path.name.startswith(PARTIAL[0])]
        states.append(read(folder))
        if writer != "history":
            write(folder, NEW)
            assert read(folder) == NEW
    assert OLD in states
