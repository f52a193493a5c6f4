"""Values as callers have them to plain Python ones: every kind of number, NumPy's scalars, texts and truth values.

A number that is not whole is refused with a message instead of being rounded. Whatever is refused can be shown, also if
its ``repr`` fails or is a book.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from math import inf
from numbers import Integral, Real

from instantrt.errors import RequestError

Number = int | Fraction | Decimal

MAX_SHOWN = 200  # characters of a value in a message
MAX_TEXT = 20_000  # characters of a prompt; CLIP reads 77 tokens, about 400 characters


@dataclass(frozen=True)
class Range:
    """Closed range of a number."""

    low: float
    high: float = inf

    def __str__(self) -> str:
        return f"{self.low:.16g} to {self.high:.16g}" if self.high < inf else f"{self.low:.16g} on"


def whole_number(name: str, value: object, allowed: Range) -> int:
    """``value`` as an int.

    Accepts ints, floats, fractions, decimals and NumPy's scalars that are whole; no truth values and no texts.

    Raises:
        RequestError: another kind of value, one that is not whole, or one outside the range.
    """
    number = _real(name, value, "whole number", allowed)
    whole = int(number)
    if whole != number:
        raise RequestError(f"{name} must be a whole number", found=shown(value), hint=f"give one from {allowed}")
    return whole


def real_number(name: str, value: object, allowed: Range) -> float:
    """``value`` as the nearest float; accepts the same kinds as :func:`whole_number`.

    Raises:
        RequestError: another kind of value, one that is not finite, or one outside the range.
    """
    return float(_real(name, value, "number", allowed))


def truth_value(name: str, value: object) -> bool:
    """``value`` as a bool, which it or NumPy's kind must be.

    Raises:
        RequestError: anything else, 0 and 1 as well.
    """
    if isinstance(value, bool):
        return value
    if type(value).__module__ == "numpy" and type(value).__name__ in ("bool", "bool_"):
        return bool(value)
    raise RequestError(f"{name} must be true or false", found=shown(value), hint="give True or False")


def plain_text(name: str, value: object) -> str:
    """``value`` as a str that every encoding of Unicode can hold.

    Raises:
        RequestError: no text, one with lone surrogates, or one longer than :data:`MAX_TEXT`.
    """
    if not isinstance(value, str):
        raise RequestError(f"{name} must be a text", found=f"{type(value).__name__}: {shown(value)}", hint="give a str")
    text = str.__str__(value)  # of a subclass, such as NumPy's or an Enum's, the text alone
    if len(text) > MAX_TEXT:
        hint = f"give at most {MAX_TEXT:,} characters; CLIP reads about the first 400"
        raise RequestError(f"{name} is too long", found=f"{len(text):,} characters", hint=hint)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _not_unicode(name, text, error.start) from None
    return text


def shown(value: object) -> str:
    """``value`` for a message: its ``repr``, not too much of it, and its type if it has none."""
    try:
        text = repr(value)
    except Exception:  # a caller's class, or an int of thousands of digits
        return f"{type(value).__name__} that cannot be shown"
    return shortened(text)


def shortened(text: str, length: int = MAX_SHOWN) -> str:
    """At most ``length`` characters of ``text``, and an ellipsis for the others."""
    return text if len(text) <= length else f"{text[:length]}..."


def _real(name: str, value: object, kind: str, allowed: Range) -> Number:
    """``value``, which is a real number of any kind and in the range, as one of Python's own, none of it rounded."""
    number = _exact(value)
    if number is None:
        raise RequestError(f"{name} must be a {kind}", found=shown(value), hint=f"give one from {allowed}")
    if not allowed.low <= number <= allowed.high:
        raise RequestError(f"{name} must be from {allowed}", found=shown(value), hint="choose a value in that range")
    return number


def _exact(value: object) -> Number | None:
    """A finite real number as one that compares with ints and floats without rounding either; None for anything else.

    NumPy's scalars do not: they round what they are compared with to their own precision.
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Decimal):
        return value if value.is_finite() else None
    if not isinstance(value, Real) or not hasattr(value, "as_integer_ratio"):
        return None
    try:
        return Fraction(*value.as_integer_ratio())
    except (ValueError, OverflowError):  # not a number, infinite
        return None


def _not_unicode(name: str, text: str, place: int) -> RequestError:
    code = ord(text[place])
    is_byte = 0xDC80 <= code <= 0xDCFF  # how Python carries a byte of an argument or file name that is not UTF-8
    what = f"byte 0x{code - 0xDC00:02x}" if is_byte else f"half of a surrogate pair, U+{code:04X},"
    found = f"{what} at character {place + 1} of {shortened(ascii(text))}"
    hint = "send it as UTF-8; on a command line, set the terminal and the locale to UTF-8"
    return RequestError(f"{name} is not Unicode text", found=found, hint=hint)
