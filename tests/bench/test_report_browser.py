"""The report in a real browser: nothing fetched, nothing cut off or tiny, dark mode, tables without scripts, zoom."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from doubles.chromium import Browser, Page, chromium, find_chromium
from doubles.result_files import fidelity_results, identity_results, latency_results, line_results, make_history
from instantrt.cli import main
from instantrt_bench.results.files import ResultFile
from instantrt_bench.results.systems import CPU_MATRIX, RUNTIME_ONNXRUNTIME
from randomness import fresh_rng

PROGRAM = find_chromium()
pytestmark = [pytest.mark.browser, pytest.mark.skipif(PROGRAM is None, reason="needs Chromium")]
SCALE = "new DOMMatrix(getComputedStyle(document.querySelector('#zoom [data-follows] img')).transform).a"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("report"), fresh_rng()
    files = [folder / f"{kind}.json" for kind in ("latency", "fidelity", "identity", "lines")]
    _with_all_systems(latency_results(rng)).write(files[0])
    _with_all_systems(line_results()).write(files[3])
    fidelity_results(rng, files[1]).write(files[1])
    identity_results(rng).write(files[2])
    make_history(rng, folder / "history")
    out = folder / "report.html"
    history = ["--history", str(folder / "history")]
    assert main(["bench", "report", *map(str, files), *history, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert PROGRAM is not None
    with chromium(PROGRAM, tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture
def page(browser: Browser) -> Page:
    opened = browser.page()
    opened.size(1280)
    return opened


def test_it_asks_for_nothing_but_itself_and_no_error_reaches_the_console(page: Page, report: Path) -> None:
    page.open(report)
    page.value("new Promise((done) => setTimeout(done, 200))")
    assert [url for url in page.requests if not url.startswith("data:")] == [report.as_uri()]
    assert page.complaints == []
    assert page.value("[...document.images].every((image) => image.naturalWidth > 0)")


def test_the_console_and_requests_are_really_watched(page: Page, tmp_path: Path) -> None:
    flawed = tmp_path / "flawed.html"
    flawed.write_text("<!doctype html><title>x</title><img src='missing.png'><script>nonsense()</script>")
    page.open(flawed)
    page.value("new Promise((done) => setTimeout(done, 200))")
    assert (tmp_path / "missing.png").as_uri() in page.requests
    assert "nonsense" in str(page.complaints)


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_sticks_out_sideways(page: Page, report: Path, width: int) -> None:
    page.size(width)
    page.open(report)
    page.value("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert page.value("document.documentElement.scrollWidth") <= width
    wider = """[...document.querySelectorAll('main *')].filter((one) => !one.closest('.scroll, dialog')
        && one.getBoundingClientRect().right > innerWidth + 0.5).map((one) => one.outerHTML.slice(0, 120))"""
    assert page.value(wider) == []


def test_no_table_hides_columns_on_a_desktop(page: Page, report: Path) -> None:
    page.open(report)
    page.value("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    boxes = "[...document.querySelectorAll('.scroll')].map((one) => [one.ariaLabel, one.scrollWidth - one.clientWidth])"
    hidden = page.value(boxes)
    assert {"times", "Roofline", "All runs", "judges", "face conditions"} <= {label for label, _ in hidden}
    assert [label for label, px in hidden if px > 0] == []


@pytest.mark.parametrize("width", [360, 375, 768, 840, 1280])
def test_text_of_charts_is_neither_tiny_nor_huge(page: Page, report: Path, width: int) -> None:
    page.size(width)
    page.open(report)
    sizes_px = page.value("""[...document.querySelectorAll('.chart svg')].filter((svg) => svg.getClientRects().length)
        .map((svg) => 12 * svg.getBoundingClientRect().width / svg.viewBox.baseVal.width)""")
    assert len(sizes_px) == page.value("document.querySelectorAll('.chart').length") > 8
    assert min(sizes_px) >= 10
    assert max(sizes_px) <= 15


@pytest.mark.parametrize("width", [360, 1280])
def test_texts_of_a_chart_do_not_overlap(page: Page, report: Path, width: int) -> None:
    page.size(width)
    page.open(report)
    overlaps = """[...document.querySelectorAll('svg')].flatMap((svg) => {
        const boxes = [...svg.querySelectorAll('text')].filter((one) => one.getClientRects().length)
            .map((one) => [one.textContent, one.getBoundingClientRect()]);
        return boxes.flatMap(([text, a], i) => boxes.slice(i + 1).filter(([, b]) =>
            a.left < b.right + 4 && b.left < a.right + 4 && a.top + 3 < b.bottom && b.top + 3 < a.bottom
        ).map(([other]) => `${text} | ${other}`));
    })"""
    assert page.value(overlaps) == []


def test_dark_mode_turns_ground_and_ink_around(page: Page, report: Path) -> None:
    def lightness(name: str) -> float:
        colour = page.value(f"getComputedStyle(document.body)['{name}']")
        return sum(map(int, colour.removeprefix("rgb(").removesuffix(")").split(","))) / (3 * 255)

    page.open(report)
    page.colour_scheme("light")
    assert lightness("background-color") > 0.9
    assert lightness("color") < 0.2
    page.colour_scheme("dark")
    assert lightness("background-color") < 0.15
    assert lightness("color") > 0.8


def test_dark_mode_changes_the_colours_of_charts(page: Page, report: Path) -> None:
    looks = """(() => {
        const one = (selector, name) => getComputedStyle(document.querySelector(`.chart svg + svg ${selector}`))[name];
        return [one('.bar path', 'fill'), one('.dot circle', 'fill'), one('.line path', 'stroke'), one('text', 'fill')];
    })()"""
    page.open(report)
    page.colour_scheme("light")
    light = page.value(looks)
    page.colour_scheme("dark")
    assert all(before != after for before, after in zip(light, page.value(looks), strict=True))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(page: Page, report: Path, scheme: str) -> None:
    """WCAG 2.1's contrast of normal text, 4.5, on whatever opaque ground lies below."""
    page.colour_scheme(scheme)
    page.open(report)
    faint = """(() => {
        const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
        const channel = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
        const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
        const ground = (one) => {
            for (; one; one = one.parentElement) {
                const found = parts(getComputedStyle(one).backgroundColor);
                if (found.length === 3) return found;
            }
        };
        return [...document.querySelectorAll('h1, h2, h3, p, li, td, th, code, summary, dt, dd, a, .chart text')]
            .filter((one) => one.textContent.trim() && one.getClientRects().length && !one.closest('dialog'))
            .map((one) => {
                const style = getComputedStyle(one);
                const a = light(parts(one.matches('text') ? style.fill : style.color)), b = light(ground(one));
                return [one.outerHTML.slice(0, 100), (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)];
            }).filter(([, contrast]) => contrast < 4.5);
    })()"""
    assert page.value(faint) == []


def test_tables_and_figures_are_there_without_scripts(page: Page, report: Path) -> None:
    page.scripts(False)
    page.open(report)
    tables = page.boxes("figure > .scroll > table")
    assert len(tables) >= 3
    assert all(width > 200 and height > 40 for width, height in tables)
    assert all(width > 200 for width, _ in page.boxes(".chart svg + svg"))
    assert all(width > 50 for width, _ in page.boxes(".tile img"))
    assert page.complaints == []


def test_a_picture_opens_enlarged_and_zooms_and_moves_with_the_others(page: Page, report: Path) -> None:
    page.open(report)
    page.value("document.querySelector('a.enlarge').scrollIntoView({ block: 'center' })")
    _click(page, "a.enlarge")
    assert page.value("document.getElementById('zoom').open")
    assert page.value("document.querySelectorAll('#zoom .panes img').length") == 4
    assert page.value(SCALE) == 1
    _click(page, "[data-zoom=in]")
    page.key("+")
    assert page.value(SCALE) == pytest.approx(1.5**2)
    page.key("ArrowLeft")
    moves = "new Set([...document.querySelectorAll('#zoom [data-follows] img')].map((one) => one.style.transform)).size"
    assert page.value(moves) == 1
    assert page.value("document.querySelector('#zoom [data-follows] img').style.transform").startswith("translate(10%")
    assert page.value("document.querySelector('#zoom figure:not([data-follows]) img').style.transform") == ""
    _click(page, "[data-zoom=reset]")
    assert page.value(SCALE) == 1
    _click(page, "[data-zoom=close]")
    assert not page.value("document.getElementById('zoom').open")
    assert page.complaints == []


def test_the_wheel_zooms_around_the_pointer(page: Page, report: Path) -> None:
    page.open(report)
    page.value("document.querySelector('a.enlarge').click()")
    frame = "document.querySelector('#zoom [data-follows] > div').getBoundingClientRect()"
    left, top, size = page.value(f"(({{ x, y, width }}) => [x, y, width])({frame})")
    for times, (across, down) in enumerate([(0.75, 0.25), (0.4, 0.6)], 1):
        x, y = left + across * size, top + down * size
        image = "document.querySelector('#zoom [data-follows] img').getBoundingClientRect()"
        place = f"(({{ x, y, width, height }}) => [({x} - x) / width, ({y} - y) / height])({image})"
        before = page.value(place)
        page.call("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=-300)
        page.value("new Promise((done) => setTimeout(done, 100))")
        assert page.value(SCALE) == pytest.approx(np.e**times, rel=1e-3)
        assert page.value(place) == pytest.approx(before, abs=1e-3)


def test_the_enlarged_pictures_fit_a_phone(page: Page, report: Path) -> None:
    page.size(360, 740)
    page.open(report)
    page.value("document.querySelector('a.enlarge').click()")
    boxes = page.value(
        "[...document.querySelectorAll('#zoom figure > div, #zoom button')]"
        ".map((one) => one.getBoundingClientRect()).map(({ right, bottom, width }) => [right, bottom, width])"
    )
    assert len(boxes) == 8
    assert all(right <= 360 and bottom <= 740 and width >= 44 for right, bottom, width in boxes)


def test_without_scripts_the_link_enlarges_the_picture(page: Page, report: Path) -> None:
    page.scripts(False)
    page.open(report)
    small = page.boxes("#case-1-runtime img")[0][0]
    _click(page, "#case-1-runtime a")
    assert page.boxes("#case-1-runtime img")[0][0] > 3 * small


def _with_all_systems(results: ResultFile) -> ResultFile:
    """As wide as tables get: figures of every system of a CPU."""
    names = [row.id for row in CPU_MATRIX]
    scenarios = [
        replace(one, systems=dict.fromkeys(names, one.systems[RUNTIME_ONNXRUNTIME])) for one in results.scenarios
    ]
    return replace(results, scenarios=tuple(scenarios))


def _click(page: Page, selector: str) -> None:
    """In the middle of an element, which is scrolled to first; needs no scripts."""
    root = page.call("DOM.getDocument")["root"]["nodeId"]
    node = page.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
    page.call("DOM.scrollIntoViewIfNeeded", nodeId=node)
    corners = page.call("DOM.getContentQuads", nodeId=node)["quads"][0]
    page.click(sum(corners[::2]) / 4, sum(corners[1::2]) / 4)
