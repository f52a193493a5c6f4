"""Result files: what every benchmark writes and what ``compare``, ``history`` and ``report`` read.

A file is rewritten in one atomic step after each finished scenario, so an interrupted run keeps what it has measured.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast, get_args

from instantrt.atomic import replace_text
from instantrt.bundle import Bundle
from instantrt.errors import InstantRTError
from instantrt_bench.results.machine import machine_facts

SCHEMA = 2
Kind = Literal["latency", "fidelity", "identity", "micro"]
Status = Literal["ok", "failed", "interrupted"]
KINDS: tuple[str, ...] = get_args(Kind)
STATUSES: tuple[str, ...] = get_args(Status)


class ResultError(InstantRTError):
    """A result file is missing, damaged, or not what was asked for."""

    code = "result"


@dataclass(frozen=True)
class SystemResult:
    """What one system gave in one scenario.

    Args:
        status: ``failed`` and ``interrupted`` keep the samples that came before.
        error: what went wrong, None if nothing did.
        samples: raw samples by name, e.g. ``latency_ms`` as a list, ``stages_ms`` as a list per stage.
        summary: figures computed from the samples.
    """

    status: Status
    error: str | None = None
    samples: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ScenarioResult:
    """What all systems gave in one scenario, and how they compare.

    Args:
        id: the same for every system, in every file, e.g. ``e2e/steps=10/samples=1``.
        parameters: the scenario as data.
        systems: by system id, see :data:`instantrt_bench.results.systems.SYSTEMS`.
        comparison: figures about two systems, e.g. the latency ratio with its interval.
    """

    id: str
    parameters: dict[str, Any]
    systems: dict[str, SystemResult] = field(default_factory=dict)
    comparison: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ResultFile:
    """One benchmark's results with everything that says where they come from.

    Args:
        kind: what was measured.
        created: ISO-8601, UTC.
        command: the command line that made it.
        machine: see :func:`instantrt_bench.results.machine.machine_facts`.
        versions: of packages.
        threads: CPU threads of each system; None if it was left to them.
        commit: ``sha`` and ``dirty`` of the source tree, both None outside one.
        bundle: ``precision``, ``dims_sha256``, ``files_sha256`` and ``plans``; empty if no bundle took part.
        options: of the command, as far as they can change results.
        scenarios: in the order they were run.
        summary: figures over all scenarios.
    """

    kind: Kind
    created: str
    command: str
    machine: dict[str, Any]
    versions: dict[str, str | None]
    threads: int | None
    commit: dict[str, Any]
    bundle: dict[str, Any]
    options: dict[str, Any]
    scenarios: tuple[ScenarioResult, ...] = ()
    summary: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def new(cls, kind: Kind, *, bundle: Bundle | None, threads: int | None, options: Mapping[str, Any]) -> ResultFile:
        """An empty file about this process: its command line, machine, versions and source tree."""
        machine = machine_facts()
        versions = cast("dict[str, str | None]", machine.pop("packages"))
        return cls(
            kind=kind,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            command=command_line(),
            machine=machine,
            versions=versions,
            threads=threads,
            commit=commit_facts(Path(__file__).parent),
            bundle={} if bundle is None else bundle_facts(bundle),
            options=dict(options),
        )

    def with_scenario(self, scenario: ScenarioResult) -> ResultFile:
        """With one more scenario, or with a newer result of one that is there."""
        kept = tuple(s for s in self.scenarios if s.id != scenario.id)
        return replace(self, scenarios=(*kept, scenario))

    def scenario(self, scenario_id: str) -> ScenarioResult | None:
        """The scenario of that id."""
        return next((s for s in self.scenarios if s.id == scenario_id), None)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ResultFile:
        """The inverse of :meth:`to_json`.

        Raises:
            KeyError, TypeError, ValueError: the data is not that of a result file.
        """
        if data["schema"] != SCHEMA:
            raise ValueError(f"schema {data['schema']!r}, this version reads schema {SCHEMA}")
        if data["kind"] not in KINDS:
            raise ValueError(f"kind {data['kind']!r}, known are {', '.join(KINDS)}")
        values = {name: data[name] for name in cls.__dataclass_fields__}
        values["scenarios"] = tuple(_scenario(s) for s in data["scenarios"])
        return cls(**values)

    def write(self, path: Path) -> None:
        """Write the file in one atomic step.

        Raises:
            OutputError: it cannot be written.
            ValueError: a figure is not a finite number, which JSON does not have.
        """
        replace_text(path, json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n")


def read_results(path: Path, kind: Kind | None = None) -> ResultFile:
    """Read a result file.

    Raises:
        ResultError: it is missing, damaged, of another schema, or not of this ``kind``.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        results = ResultFile.from_json(data)
    except OSError as error:
        raise ResultError(f"{path} cannot be read", found=str(error.strerror), hint="check the path") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ResultError(
            f"{path} is not a result file",
            found=f"{type(error).__name__}: {error}",
            hint="`instantrt bench latency`, `fidelity` and `identity` write them",
        ) from error
    if kind is not None and results.kind != kind:
        what, hint = f"{path} is no file of {kind} results", f"name a file of `instantrt bench {kind}`"
        raise ResultError(what, found=f"{results.kind} results", hint=hint)
    return results


def bundle_facts(bundle: Bundle) -> dict[str, Any]:
    """What identifies a bundle: precision, digests of its sizes and of its files, and the digests of its plans."""
    files = {name: record.sha256 for name, record in bundle.manifest.files.items()}
    return {
        "precision": bundle.precision,
        "dims_sha256": _digest(bundle.dims.to_json()),
        "files_sha256": _digest(files),
        "plans": _plan_facts(bundle.folder / "plans"),
    }


def commit_facts(folder: Path) -> dict[str, Any]:
    """``sha`` of the source tree's commit and whether it is ``dirty``; both None where there is no git tree."""
    sha = _git(folder, "rev-parse", "HEAD")
    changes = None if sha is None else _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"sha": sha, "dirty": None if changes is None else bool(changes)}


def command_line() -> str:
    """This process's command, as one would type it."""
    program, *arguments = sys.argv or [""]
    spec = sys.modules["__main__"].__spec__
    if spec is not None:
        return shlex.join(["python", "-m", spec.name.removesuffix(".__main__"), *arguments])
    return shlex.join([Path(program).name, *arguments])


def _scenario(data: Mapping[str, Any]) -> ScenarioResult:
    systems = {name: SystemResult(**system) for name, system in data["systems"].items()}
    for name, system in systems.items():
        if system.status not in STATUSES:
            raise ValueError(f"status {system.status!r} of {name}")
    return ScenarioResult(data["id"], data["parameters"], systems, data["comparison"])


def _plan_facts(folder: Path) -> dict[str, dict[str, Any]]:
    """By target and network: what the JSON beside each plan says of its digest and identity."""
    facts: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*/*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            record = {}
        known = isinstance(record, dict)
        facts.setdefault(path.parent.name, {})[path.stem] = {
            "sha256": record.get("file", {}).get("sha256") if known else None,
            "identity_sha256": _digest(record.get("identity")) if known else None,
        }
    return facts


def _digest(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603 - fixed program and arguments
            ["git", "-C", str(folder), *arguments],  # noqa: S607 - whichever git the user has
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
