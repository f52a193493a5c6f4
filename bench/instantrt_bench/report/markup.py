"""HTML and SVG built from elements: text is escaped unless it is already markup, and every element is closed."""

from __future__ import annotations

from html import escape

VOID = frozenset({"img", "meta", "wbr"})
Value = str | float | bool | None


class Html(str):
    """Markup, not to be escaped again. Only :func:`tag`, :func:`join` and this package's own files may make it."""

    __slots__ = ()


Child = str | Html | None


def tag(name: str, /, *children: Child, **attributes: Value) -> Html:
    """One element.

    Args:
        name: of the element.
        children: markup, or text to escape; None and "" give nothing.
        attributes: a trailing underscore is dropped and others become hyphens (``class_``, ``stroke_width``); True
            gives an attribute without a value, False and None none.
    """
    opening = f"<{name}{''.join(_attribute(key, value) for key, value in attributes.items())}>"
    if name in VOID:
        return Html(opening)
    return Html(f"{opening}{join(*children)}</{name}>")


def join(*children: Child) -> Html:
    """Markup one after the other, text escaped."""
    return Html("".join(child if isinstance(child, Html) else escape(child) for child in children if child))


def breakable(text: str) -> Html:
    """Text, such as a scenario's id, that may be broken after each slash."""
    first, *rest = text.split("/")
    return join(first, *(child for part in rest for child in ("/", tag("wbr"), part)))


def _attribute(key: str, value: Value) -> str:
    if value is None or value is False:
        return ""
    name = key.removesuffix("_").replace("_", "-")
    if value is True:
        return f" {name}"
    text = value if isinstance(value, str) else f"{value:g}"
    return f' {name}="{escape(text)}"'
