"""What a section found: kept on disk after every step, and printed as one short table at the end."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from instantrt.atomic import replace_text

PASSED, FAILED, TIMED_OUT, SKIPPED = "passed", "FAILED", "TIMED OUT", "skipped"
ERROR_LINES = 3  # of a traceback's end in the table; all of it is in the JSON
LINE_CHARACTERS = 120


class SkippedError(Exception):
    """There is nothing to do here; the message says why."""


@dataclass
class Report:
    """What one section found so far. Written anew after every change: a section that is ended loses one step at most.

    Args:
        path: the JSON file.
        deadline: ``time.monotonic()`` at which the section is ended from outside.
    """

    path: Path
    deadline: float
    figures: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)  # for the JSON alone
    checks: dict[str, dict[str, Any]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    step_seconds: dict[str, float] = field(default_factory=dict)

    @property
    def left_s(self) -> float:
        """Seconds before the section is ended."""
        return self.deadline - monotonic()

    def add(self, **figures: Any) -> None:
        """Figures for the table, by name; floats keep four digits."""
        self.figures |= {name: rounded(value) for name, value in figures.items()}
        self.save()

    def detail(self, **details: Any) -> None:
        """Longer data, for the JSON alone."""
        self.details |= {name: rounded(value) for name, value in details.items()}
        self.save()

    def check(self, name: str, found: float, at_most: float) -> None:
        """A figure with a limit; NaN is above every limit."""
        self.checks[name] = {"found": rounded(found), "at_most": at_most, "ok": bool(found <= at_most)}
        self.save()

    def require(self, seconds: float) -> None:
        """Raise :class:`SkippedError` with less time left: better left out than cut off half way."""
        if self.left_s < seconds:
            raise SkippedError(f"{max(self.left_s, 0):.0f} s left, it needs {seconds:.0f}")

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """One part of the section; the next one goes on whatever happens in it."""
        start = monotonic()
        sys.stderr.write(f"  {self.path.stem}: {name}\n")
        try:
            yield
        except SkippedError as why:
            self.skipped[name] = str(why)
        except Exception:  # whatever it is, the other steps still have something to tell
            self.errors[name] = traceback.format_exc()
        self.step_seconds[name] = round(monotonic() - start, 2)
        self.save()

    @property
    def passed(self) -> bool:
        """Whether no step failed and no limit was broken."""
        return not self.errors and all(check["ok"] for check in self.checks.values())

    def save(self) -> None:
        """Write the file in one atomic step."""
        values = {name: value for name, value in vars(self).items() if name not in ("path", "deadline")}
        write_json(self.path, {"status": PASSED if self.passed else FAILED, **values})


def write_json(path: Path, data: Any) -> None:
    """Write a JSON file in one atomic step."""
    replace_text(path, json.dumps(data, indent=1, default=str) + "\n")


def rounded(value: Any) -> Any:
    """Floats to four significant digits, inside lists and dictionaries too."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return value


def as_table(sections: Mapping[str, Mapping[str, Any]]) -> str:
    """Every section with its figures, what was skipped, its checks, and the end of its errors."""
    lines = []
    for name, section in sections.items():
        lines.append(f"== {name}  {section['status']}  {section.get('seconds', 0):.0f} s")
        lines += [_line(key, value) for key, value in section.get("figures", {}).items()]
        lines += [_line(f"--  {key}", why) for key, why in section.get("skipped", {}).items()]
        for key, check in section.get("checks", {}).items():
            lines.append(
                _line(f"{'ok ' if check['ok'] else 'BAD'} {key}", f"{check['found']} (at most {check['at_most']})")
            )
        for key, error in section.get("errors", {}).items():
            lines += [_line(f"!!  {key}", ""), *(f"     {line}" for line in error.strip().splitlines()[-ERROR_LINES:])]
    return "\n".join(line[:LINE_CHARACTERS].rstrip() for line in lines) + "\n"


def _line(key: str, value: Any) -> str:
    return f"   {key:<46} {value}"
