"""matplotlib's drawings as SVG inside the page: for phones and for wide screens, coloured by the style sheet."""

from __future__ import annotations

import io
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable

from markupsafe import Markup
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from instantrt_bench.report.text import tick_text

SIZES = ((340, 4, 46), (820, 10, 118))  # px across, ticks across, characters in a line: phones, wide screens
LINE_PX = 17

NAMES = ("ink", "soft", "grid", "raised", *(f"s{n}" for n in range(7)))
COLOURS = {name: f"#{number:06x}" for number, name in enumerate(NAMES, 1)}
"""The style sheet's variables, and what stands for them while matplotlib draws."""
VARIABLES = {placeholder: f"var(--{name})" for name, placeholder in COLOURS.items()}

STYLE = {
    "figure.dpi": 72,  # a point is a pixel
    "figure.frameon": False,
    "figure.constrained_layout.use": True,
    "svg.fonttype": "none",
    "path.simplify": False,
    "text.parse_math": False,
    "text.color": COLOURS["ink"],
    "font.size": 12,
    "grid.color": COLOURS["grid"],
    "axes.grid": True,
    "axes.grid.which": "both",
    "axes.axisbelow": True,
    "axes.xmargin": 0,
    "axes.ymargin": 0,
    "axes.autolimit_mode": "round_numbers",
    "axes.titlelocation": "left",
    "xaxis.labellocation": "right",
    **dict.fromkeys(("axes.titlesize", "axes.labelsize"), 12),
    **dict.fromkeys(("axes.titlecolor", "axes.labelcolor", "xtick.color", "ytick.color"), COLOURS["soft"]),
    **{f"{axis}tick.{which}.size": 0 for axis in "xy" for which in ("major", "minor")},
    **{f"{axis}tick.{which}.pad": 8 for axis in "xy" for which in ("major", "minor")},
}
SVG, HREF = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
NOT_XML = re.compile("[^\t\n -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # characters that names may hold


def drawings(draw: Callable[[Axes, int, int], float], label: str, scales: tuple[str, str]) -> list[Markup]:
    """A figure at every one of :data:`SIZES`.

    Args:
        draw: is given empty axes, how many ticks have room across, and how many characters; returns the height in px.
            An artist's gid becomes its class and, after a blank, its title.
        label: what the figure shows, for those who cannot see it.
        scales: across and up, ``linear`` or ``log``.
    """
    made = []
    with style.context(["default", STYLE]), warnings.catch_warnings():
        # matplotlib only measures text with its own font; the browser has others.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        for width, ticks, characters in SIZES:
            figure, svg = Figure(), io.StringIO()
            axes = figure.subplots(subplot_kw={"frameon": False, "xscale": scales[0], "yscale": scales[1]})
            _scale(axes.xaxis, ticks)
            _scale(axes.yaxis, 5)
            figure.set_size_inches(width / 72, draw(axes, ticks, characters) / 72)
            figure.savefig(svg, format="svg")
            made.append(_inline(svg.getvalue(), label))
    return made


def _scale(axis: Axis, most: int) -> None:
    """At most ``most`` round ticks, or a few more."""
    if axis.get_scale() == "log":
        axis.set_major_locator(LogLocator(numticks=most))
        axis.set_minor_locator(LogLocator(subs=(2, 5), numticks=max(2, most // 3)))
    else:
        axis.set_major_locator(MaxNLocator(most, steps=(1, 2, 5, 10)))
    axis.set_major_formatter(lambda value, _: tick_text(value))
    axis.set_minor_formatter(lambda value, _: tick_text(value))


def _inline(svg: str, label: str) -> Markup:
    """Variables for colours; circles for markers, which matplotlib refers to by ids that would not be unique."""
    root = ET.fromstring(NOT_XML.sub(" ", svg))  # noqa: S314 - matplotlib has just made it
    radii = {f"#{path.get('id')}": path.attrib["d"].split()[2] for path in root.iterfind(f".//{SVG}defs/{SVG}path")}
    for parent in [*root.iter()]:
        for child in [*parent.iterfind(f"{SVG}defs"), *parent.iterfind(f"{SVG}metadata")]:
            parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.removeprefix(SVG)
        attributes = element.attrib
        if element.tag == "use":
            element.tag = "circle"
            attributes |= {"cx": attributes.pop("x"), "cy": attributes.pop("y"), "r": radii[attributes.pop(HREF)]}
        kind, _, title = attributes.pop("id", "_").partition(" ")
        if "_" not in kind:  # matplotlib's own ids have one
            attributes["class"] = kind
        if title:
            ET.SubElement(element, "title").text = title
        look = re.sub(r"font-family: [^;]*; ", "", attributes.pop("style", ""))
        if look:
            attributes["style"] = re.sub("#[0-9a-f]{6}", lambda colour: VARIABLES[colour[0]], look)
        attributes.pop("transform", None)  # of texts, by 0 degrees
        attributes.pop("clip-path", None)  # would cut a dot at the edge in half
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": NOT_XML.sub(" ", label)}
    return Markup(ET.tostring(root, encoding="unicode", short_empty_elements=False))  # noqa: S704 - escaped by ET
