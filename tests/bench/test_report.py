"""The report page: well-formed, fetches nothing, escapes everything, says what is missing, shows what failed."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from doubles.bench_results import latency_file
from doubles.result_files import (
    SCENARIO,
    fidelity_results,
    identity_results,
    latency_results,
    line_results,
    make_history,
    result_file,
)
from instantrt.cli import main
from instantrt_bench.regression.history import read_history
from instantrt_bench.report.gallery import data_uri, difference, gallery_cases
from instantrt_bench.report.growth import growth_chart, growth_rows
from instantrt_bench.report.latency import stage_groups
from instantrt_bench.report.page import Source, page
from instantrt_bench.report.text import breakable, machine_text, signed
from instantrt_bench.results.files import ResultFile, ScenarioResult, SystemResult
from instantrt_bench.results.growth import Growth, Line
from instantrt_bench.results.systems import REFERENCE_EAGER, RUNTIME_ONNXRUNTIME
from randomness import fresh_rng

VOID = {"img", "meta", "wbr"}
EVIL = "</title></script></code><script>alert(1)</script><img src=x onerror=alert(2)>\"'&"


class Reader(HTMLParser):
    """Checks that every element is closed in order, and keeps elements, their attributes and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names))
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text.append(data)

    def all_text(self) -> str:
        return " ".join("".join(self.text).split())

    def values(self, element: str, attribute: str) -> list[str | None]:
        return [
            attributes[attribute] for tag, attributes in self.elements if tag == element and attribute in attributes
        ]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Source]:
    rng, path = fresh_rng(), tmp_path_factory.mktemp("results") / "fidelity.json"
    made = [latency_results(rng), fidelity_results(rng, path), identity_results(rng)]
    return [Source(path.with_stem(results.kind), results) for results in made]


@pytest.fixture(scope="module")
def html(sources: list[Source]) -> str:
    return page(sources)


def test_the_page_is_well_formed_with_unique_ids_and_links_that_lead_somewhere(html: str) -> None:
    reader = Reader(html)
    ids = [attributes["id"] for _, attributes in reader.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = reader.values("a", "href")
    assert len(targets) > 6
    assert {f"#{name}" for name in ids} >= set(targets)


def test_nothing_outside_the_page_is_named(html: str) -> None:
    reader = Reader(html)
    assert not re.findall(
        r"https?:|//[a-z]|url\(|@import|@font-face", re.sub(r"data:image/\w+;base64,[\w+/=]+", "", html)
    )
    assert all((value or "").startswith("data:image/") for value in reader.values("img", "src"))
    assert not reader.values("script", "src")
    assert not [tag for tag, _ in reader.elements if tag in ("link", "iframe", "object", "base", "form")]
    (policy,) = (a["content"] for t, a in reader.elements if t == "meta" and "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_every_text_of_a_result_file_is_escaped(rng: np.random.Generator, tmp_path: Path) -> None:
    calm = Reader(page(_renamed(rng, tmp_path, "calm")))
    reader = Reader(page(_renamed(rng, tmp_path, EVIL)))
    counts = [
        sum(tag == name for tag, _ in one.elements) for one in (calm, reader) for name in ("script", "img", "code")
    ]
    assert counts[:3] == counts[3:]
    assert not [name for _, attributes in reader.elements for name in attributes if name.startswith("on")]
    assert reader.all_text().count(EVIL) >= 20


def test_figures_name_command_machine_samples_and_intervals(sources: list[Source], html: str) -> None:
    text = Reader(html).all_text()
    results = sources[0].results
    ratio = results.summary["ratio_eager"][RUNTIME_ONNXRUNTIME]
    assert f"{ratio['estimate']:.2f}\u00d7" in text
    assert f"[{ratio['low']:.2f}, {ratio['high']:.2f}], n = 20" in text
    assert text.count(results.command) >= 4
    assert "Example CPU, 2 logical CPUs, 2 threads" in text
    assert "other processes kept the CPU busy" in text


def test_one_thread_and_small_differences_read_well(sources: list[Source]) -> None:
    results = sources[0].results
    texts = [machine_text(replace(results, threads=threads)) for threads in (None, 1, 2)]
    assert [text.removeprefix(texts[0]) for text in texts] == ["", ", 1 thread", ", 2 threads"]
    assert [signed(value) for value in (-1.7e-5, 1.3e-6, 0.0213, 0.0)] == ["-1.7e-5", "+1.3e-6", "+0.0213", "0"]


def test_every_figure_has_its_command(sources: list[Source], rng: np.random.Generator, tmp_path: Path) -> None:
    make_history(rng, tmp_path / "history", runs=2)
    html = page(sources, read_history(tmp_path / "history"))
    figures = re.findall(r"<figure><h3>.*?</figure>", html, re.DOTALL)
    assert len(figures) >= 10
    assert all('class="command"' in figure for figure in figures)
    articles = re.findall(r"<article.*?</article>", html, re.DOTALL)
    assert len(articles) == 6
    assert all('class="command"' in article for article in articles)


def test_a_failed_system_is_shown_with_its_error(html: str) -> None:
    text = Reader(html).all_text()
    assert "Failed: reference-compiled: RuntimeError: no compiler <was> found & none will be" in text


@pytest.mark.parametrize("kind", ["latency", "fidelity", "identity"])
def test_a_missing_kind_is_said(sources: list[Source], html: str, kind: str) -> None:
    reader = Reader(page([source for source in sources if source.results.kind != kind]))
    assert f"no {kind} results; `instantrt bench {kind}` makes them" in reader.all_text()
    assert f"no {kind} results" not in Reader(html).all_text()


def test_growth_is_shown_for_every_axis_with_its_figures(tmp_path: Path) -> None:
    html = page([Source(tmp_path / "latency.json", line_results())])
    for axis in ("steps", "samples", "pixels"):
        assert f"How latency grows with {axis}" in html
    cells = " ".join(re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", html.replace("<wbr>", "")))
    assert "system fixed ms ms per step r\u00b2 largest residual ms points of the peak" in cells
    assert "runtime-onnxruntime 20.0 10.0 1.00000" in cells
    assert "reference-eager 40.0 20.0 1.00000" in cells
    assert "25 % to 25 %" in cells
    assert "How latency grows" not in page([Source(tmp_path / "latency.json", latency_file([[1.0]]))])


@settings(max_examples=10)
@given(st.lists(st.floats(1, 1e5), min_size=3, max_size=6))
def test_a_fitted_line_goes_from_nothing_to_the_last_point(times_ms: list[float]) -> None:
    values = tuple(float(value) for value in range(1, len(times_ms) + 1))
    line = Line.through(values, times_ms)
    growth = Growth("steps", "step", "", REFERENCE_EAGER, values, tuple(times_ms), line, (None,) * len(values))
    for drawing in growth_chart([growth]).drawings:
        assert drawing.count("<circle") == len(values)
        assert drawing.count('class="line"') == 1
    assert next(iter(growth_rows([growth])))[-1] == "\u2013 to \u2013"


def test_no_history_and_no_pictures_are_said(sources: list[Source]) -> None:
    text = Reader(page(sources[:1])).all_text()
    assert "no history was named" in text
    assert "no pictures were kept" in text


def test_unfinished_results_of_every_kind_make_a_page() -> None:
    empty = [Source(Path("x.json"), result_file(kind, [], {})) for kind in ("latency", "fidelity", "identity", "micro")]
    text = Reader(page(empty, [])).all_text()
    assert "no scenario was finished" in text
    assert "the history folder is empty" in text


def test_systems_that_gave_nothing_make_a_page() -> None:
    systems = {
        RUNTIME_ONNXRUNTIME: SystemResult("interrupted"),
        REFERENCE_EAGER: SystemResult("failed", "out of memory"),
    }
    latency = result_file("latency", [ScenarioResult(SCENARIO, {}, systems)], {})
    comparison = {"within_limits": False, "failures": ["a system failed"]}
    fidelity = result_file("fidelity", [ScenarioResult("photo=a", {"photo": "a"}, systems, comparison)], {})
    identity = result_file("identity", [ScenarioResult("photo=a", {"photo": "a"}, systems)], {})
    text = Reader(page([Source(Path("x.json"), results) for results in (latency, fidelity, identity)])).all_text()
    assert text.count("out of memory") >= 3
    assert "runtime-onnxruntime was interrupted" in text
    assert "no system gave a time" in text
    assert "no pair of pictures shows a face" in text


def test_no_faces_are_said_instead_of_plotted(rng: np.random.Generator) -> None:
    results = identity_results(rng, pairs=0)
    text = Reader(page([Source(Path("identity.json"), results)])).all_text()
    assert "No face was detected in 1 of 1 pictures of the runtime." in text
    assert "Difference in likeness" not in text


def test_stages_of_both_pipelines_fall_into_the_same_groups() -> None:
    def sums(system: str, **stages: float) -> dict[str, float]:
        found = stage_groups(system, {name.replace("_", " "): {"p50": ms} for name, ms in stages.items()})
        return {part.label: part.value for part in found}

    ours = sums(RUNTIME_ONNXRUNTIME, photo=1, face=2, text=3, denoise=4, decode=5, encode=6, invented=7)
    theirs = sums(REFERENCE_EAGER, decode_and_face=3, prepare=3, denoise=4, decode=5, encode=6)
    assert theirs == {"photo and face": 3, "text, conditioning, noise": 3, "denoising": 4, "VAE": 5, "encoding": 6}
    assert ours == {**theirs, "other": 7}


def test_trends_keep_machines_apart_and_mark_uncommitted_changes(rng: np.random.Generator, tmp_path: Path) -> None:
    make_history(rng, tmp_path, runs=5)
    html = page([], read_history(tmp_path))
    text = Reader(html).all_text()
    assert "5 runs on Example CPU, 2 logical CPUs, 2 threads" in text
    assert "1 run on Another CPU, 64 logical CPUs, 2 threads" in text
    latency, *_ = re.findall(rf"<figure><h3>{breakable(SCENARIO)}.*?</figure>", html, re.DOTALL)
    sizes = latency.count("<svg")
    dots = re.findall(r'<g class="dot">.*?<circle ([^>]*)>', latency, re.DOTALL)
    assert len(dots) == sizes * 10  # two systems in five runs
    assert sum("fill: var(--raised)" in dot for dot in dots) == sizes * 2  # hollow: the fourth run's
    assert latency.count("other processes kept the CPU busy") == sizes * 10 + 10  # at each point and in its row


def test_the_same_results_make_the_same_page(sources: list[Source], html: str) -> None:
    assert page(sources) == html


def test_columns_of_numbers_stand_flush_right_with_their_heads(html: str) -> None:
    networks = html.partition("<summary>All figures</summary>")[2].partition("</table>")[0]
    heads = Reader(networks.partition("<tbody>")[2].partition("</tr>")[0] + "</tr>").elements
    assert re.findall(r'<th scope="col"([^>]*)>', networks) == ["", *[' class="number"'] * 3, "", ""]
    assert [attributes.get("class") for tag, attributes in heads if tag == "td"] == [*["number"] * 3, None, None]


def test_the_gallery_starts_with_the_worst_case_and_is_cut(sources: list[Source]) -> None:
    cases = gallery_cases(sources[1].path, sources[1].results)
    psnr = [case.badness for case in cases]
    assert psnr == sorted(psnr)
    reader = Reader(page(sources, most_pictures=2))
    assert len(reader.values("img", "src")) == 8
    assert "2 of 6 cases, lowest PSNR first" in reader.all_text()


def test_the_gallery_shows_cases_of_every_file(rng: np.random.Generator, sources: list[Source]) -> None:
    """Identity's cases have no PSNR; they come with what each judge says."""
    fidelity = sources[1]
    case = fidelity.results.scenarios[-1]
    systems = {
        name: SystemResult("ok", samples={"similarity": {"faceres": [cosine]}})
        for name, cosine in (("runtime-onnxruntime", 0.81), ("reference-eager", 0.82))
    }
    comparison = {"similarity_difference": {"faceres": -0.01}, "pictures": case.comparison["pictures"]}
    judged = replace(case, id="judged", systems=systems, comparison=comparison)
    identity = Source(fidelity.path, replace(identity_results(rng), scenarios=(judged,)))
    reader = Reader(page([fidelity, identity], most_pictures=4))
    assert len(reader.values("img", "src")) == 4 * 4
    shown = reader.all_text().partition("4 of 7 cases")[2]
    judges = "cosine to the photo by faceres: runtime 0.81, reference 0.82"
    assert 0 < shown.index("PSNR") < shown.index(judges)


@pytest.mark.parametrize(
    ("path", "message"),
    [("../secret.png", "lies outside the results' folder"), ("gone.png", "the file is missing or damaged")],
)
def test_pictures_outside_the_folder_or_missing_are_not_shown(
    rng: np.random.Generator, tmp_path: Path, path: str, message: str
) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(tmp_path / "secret.png")
    results = fidelity_results(rng, folder / "fidelity.json")
    case = results.scenarios[-1]
    changed = replace(
        case, comparison={**case.comparison, "pictures": {**case.comparison["pictures"], "runtime": path}}
    )
    reader = Reader(page([Source(folder / "fidelity.json", results.with_scenario(changed))]))
    assert message in reader.all_text()
    assert len(reader.values("img", "src")) == 6 * 4 - 2  # the runtime's picture and the difference


def test_embedded_pictures_are_lossless_when_small(rng: np.random.Generator) -> None:
    small = rng.integers(0, 256, (128, 96, 3), dtype=np.uint8)
    np.testing.assert_array_equal(_decoded(data_uri(small)), small)
    assert data_uri(np.zeros((512, 512, 3), np.uint8)).startswith("data:image/jpeg")
    assert max(_decoded(data_uri(np.zeros((900, 600, 3), np.uint8), photo=True)).shape) == 320


@pytest.mark.parametrize(("largest", "gain"), [(0, 64), (1, 64), (3, 64), (4, 32), (100, 2), (128, 1), (255, 1)])
def test_the_difference_is_amplified_as_far_as_it_fits(largest: int, gain: int) -> None:
    runtime, reference = np.zeros((2, 4, 4, 3), np.uint8)
    reference[1, 2, 0] = largest
    pixels, note = difference(runtime, reference)
    assert isinstance(pixels, np.ndarray)
    assert pixels.max() == gain * largest <= 255
    assert note == f"\u00d7 {gain}, largest: {largest} of 255"


def test_the_command_writes_the_page(rng: np.random.Generator, tmp_path: Path) -> None:
    latency_results(rng).write(tmp_path / "latency.json")
    out = tmp_path / "new" / "report.html"
    assert main(["bench", "report", str(tmp_path / "latency.json"), "--out", str(out)]) == 0
    text = Reader(out.read_text(encoding="utf-8")).all_text()
    assert SCENARIO in text


def test_a_report_of_nothing_and_a_damaged_file_are_mistakes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "report", "--out", str(tmp_path / "x.html")]) == 1
    assert "name result files" in capsys.readouterr().err
    (tmp_path / "bad.json").write_text("{}")
    assert main(["bench", "report", str(tmp_path / "bad.json"), "--out", str(tmp_path / "x.html")]) == 1
    assert "is not a result file" in capsys.readouterr().err
    assert not (tmp_path / "x.html").exists()


def _renamed(rng: np.random.Generator, folder: Path, text: str) -> list[Source]:
    """Files of every kind in which names, errors, commands and machine facts are ``text``."""
    path = folder / "fidelity.json"
    facts = {"command": text, "machine": {"cpu": text, text: text}, "versions": {text: text}, "created": text}
    latency = latency_results(rng, commit={"sha": text, "dirty": None}, **facts)
    scenario = latency.scenarios[0]
    systems = {**scenario.systems, text: SystemResult("failed", text)}
    flagged = {**scenario.comparison, "flags": [text]}
    latency = replace(latency, scenarios=(ScenarioResult(text, {}, systems, flagged),))
    fidelity = fidelity_results(rng, path, **facts)
    scenarios = [replace(s, id=text, parameters=dict.fromkeys(s.parameters, text)) for s in fidelity.scenarios]
    fidelity = replace(fidelity, scenarios=tuple(scenarios))
    identity = _with_statement(identity_results(rng, **facts), text)
    return [Source(path, results) for results in (latency, fidelity, identity)]


def _with_statement(results: ResultFile, text: str) -> ResultFile:
    judges = {text: results.summary["judges"]["faceres"]}
    return replace(
        results, summary={**results.summary, "statement": text, "judges": judges, "failures": {text: [text]}}
    )


def _decoded(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))
