"""Plans and their identity: what a plan was made from and for, kept in a JSON file beside it and checked on load.

``plans/TARGET/NAME.plan`` lies beside ``plans/TARGET/NAME.json``. A plan can execute code, so nothing is deserialised
before its digest, the bundle it was made from and the machine it was made for have been checked.

A plan is replaced by writing ``NAME.plan.new``, then the JSON, which says which of the two files is valid, and then
renaming the file. A build that dies in between leaves the old plan or the new one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instantrt.atomic import replace_file
from instantrt.bundle import Bundle, FileRecord
from instantrt.contracts import NetworkContract, Precision
from instantrt.engine.flavours import FLAVOURS, covers, numbers
from instantrt.errors import InstantRTError

if TYPE_CHECKING:
    from instantrt.device.properties import GpuProperties

PLANS = "plans"
FORMAT = 2  # 1: no GPU, and only those builder flags that were set

Extent = tuple[int, int, int]  # fewest, best, most
Profile = dict[str, Extent]  # by contract symbol, e.g. {"B": (1, 1, 4), "G": (2, 2, 2)}
Option = bool | int | str


class PlanError(InstantRTError):
    """A plan is missing, stale, foreign or altered. ``ingredient`` names what of its identity does not fit."""

    code = "plan"

    def __init__(self, what: str, *, ingredient: str, found: str, hint: str) -> None:
        super().__init__(what, found=found, hint=hint)
        self.ingredient = ingredient


@dataclass(frozen=True)
class TunedFor:
    """A model of GPU. One compute capability has several: H100, H200 and their MIG slices are all 9.0.

    Args:
        name: the vendor's; a MIG slice's says so.
        multiprocessors: how many streaming multiprocessors it has.
    """

    name: str
    multiprocessors: int

    @classmethod
    def of(cls, gpu: GpuProperties) -> TunedFor:
        """The model of a GPU of this machine."""
        return cls(gpu.name, gpu.multiprocessors)

    def __str__(self) -> str:
        return f"{self.name} with {self.multiprocessors} multiprocessors"


@dataclass(frozen=True)
class PlanIdentity:
    """Everything that changes a plan.

    Args:
        network: the network.
        target: what executes the plan, e.g. ``tensorrt-rtx``.
        target_version: full version of the library that built it.
        onnx: SHA-256 by file name of the ONNX file and its external data.
        precision: the bundle's network dtype.
        profiles: what each optimisation profile accepts.
        compute: GPU compute capabilities it runs on; ``"8.6"`` is that one, ``"12.0+"`` is that one and later ones.
        tuned_for: the only model of GPU that it runs on; None for a plan that all GPUs of ``compute`` run, as
            TensorRT-RTX's are and hardware-compatible ones.
        options: builder options that differ from the builder's defaults; under ``flags`` the builder's own names of
            all flags that are on, its defaults included.
    """

    network: str
    target: str
    target_version: str
    onnx: dict[str, str]
    precision: Precision
    profiles: tuple[Profile, ...]
    compute: tuple[str, ...]
    tuned_for: TunedFor | None
    options: dict[str, Option]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PlanIdentity:
        """The inverse of :meth:`to_json`."""
        values = dict(data)
        values["profiles"] = tuple(
            {symbol: (int(e[0]), int(e[1]), int(e[2])) for symbol, e in profile.items()}
            for profile in values["profiles"]
        )
        values["compute"] = tuple(values["compute"])
        values["tuned_for"] = None if values["tuned_for"] is None else TunedFor(**values["tuned_for"])
        return cls(**values)

    def differences(self, wanted: PlanIdentity) -> Iterator[tuple[str, Any, Any]]:
        """(ingredient, what is here, what is wanted) for each ingredient that differs."""
        for field in fields(self):
            here, there = getattr(self, field.name), getattr(wanted, field.name)
            if here != there:
                yield field.name, here, there


@dataclass(frozen=True)
class PlanRecord:
    """What the JSON beside a plan says.

    Args:
        identity: what the plan was made from and for.
        file: size and digest of the plan.
        layers: layers of the parsed network.
        activation_bytes: activation memory of each profile as the builder reports it; empty if it does not.
        weight_bytes: device memory of the weights as the builder reports it; None if it does not.
        build_seconds: time to parse and build.
    """

    identity: PlanIdentity
    file: FileRecord
    layers: int
    activation_bytes: tuple[int, ...]
    weight_bytes: int | None
    build_seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain data, with a seal over all of it that shows edits by hand."""
        data = {"format": FORMAT, **asdict(self)}
        return {**data, "seal": _seal(data)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PlanRecord:
        """The inverse of :meth:`to_json`; does not look at the seal."""
        return cls(
            identity=PlanIdentity.from_json(data["identity"]),
            file=FileRecord(**data["file"]),
            layers=int(data["layers"]),
            activation_bytes=tuple(int(n) for n in data["activation_bytes"]),
            weight_bytes=None if data["weight_bytes"] is None else int(data["weight_bytes"]),
            build_seconds=float(data["build_seconds"]),
        )


def plan_path(bundle: Path, target: str, network: str) -> Path:
    """Where a bundle keeps the plan of a network."""
    return bundle / PLANS / target / f"{network}.plan"


def new_plan_path(bundle: Path, target: str, network: str) -> Path:
    """Where a plan lies between the instants at which it is complete and at which it takes its final name."""
    return plan_path(bundle, target, network).with_suffix(".plan.new")


def record_path(bundle: Path, target: str, network: str) -> Path:
    """Where a bundle keeps the identity of that plan."""
    return plan_path(bundle, target, network).with_suffix(".json")


def onnx_digests(bundle: Bundle, network: str) -> dict[str, str]:
    """SHA-256 of a network's ONNX file and of its external data, as the bundle's manifest lists them."""
    name, files = bundle.manifest.networks[network], bundle.manifest.files
    return {part: files[part].sha256 for part in (name, f"{name}.data") if part in files}


def build_command(bundle: Path, target: str, network: str) -> str:
    """The command that makes a plan anew."""
    return f"`instantrt build {bundle} --target {target} --only {network}`"


def read_record(bundle: Path, target: str, network: str) -> PlanRecord:
    """The identity beside a plan, its seal checked.

    Raises:
        PlanError: there is no plan, or its JSON is missing, unreadable, of another format or edited.
    """
    path, plan = record_path(bundle, target, network), plan_path(bundle, target, network)
    again = f"build it with {build_command(bundle, target, network)}"
    if not plan.is_file() and not (path.is_file() and new_plan_path(bundle, target, network).is_file()):
        raise PlanError(f"there is no {target} plan of {network}", ingredient="file", found=f"no {plan}", hint=again)
    if not path.is_file():
        raise PlanError(
            f"the {target} plan of {network} has no identity beside it",
            ingredient="identity",
            found=f"no {path}; a build may have been interrupted",
            hint=again,
        )
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["format"] != FORMAT:
            raise _other_format(target, network, data["format"], again)
        record = PlanRecord.from_json(data)
        seal = _seal({key: value for key, value in data.items() if key != "seal"})
    except (ValueError, KeyError, TypeError, IndexError) as error:
        found = f"{type(error).__name__}: {error}"
        raise PlanError(f"{path} cannot be read", ingredient="identity", found=found, hint=again) from error
    if data.get("seal") != seal:
        raise PlanError(
            f"{path} was edited after the plan was built",
            ingredient="identity",
            found=f"seal {data.get('seal')}, expected {seal}",
            hint=again,
        )
    return record


def _other_format(target: str, network: str, found: object, again: str) -> PlanError:
    return PlanError(
        f"the {target} plan of {network} was built by another version of InstantRT",
        ingredient="identity",
        found=f"an identity of format {found}; this version reads format {FORMAT}, which says for which GPU and with "
        "which flags a plan was built",
        hint=again,
    )


def write_record(bundle: Path, record: PlanRecord) -> None:
    """Write the JSON beside a plan in one atomic step.

    Raises:
        OutputError: it cannot be written.
    """
    path = record_path(bundle, record.identity.target, record.identity.network)
    text = json.dumps(record.to_json(), indent=1) + "\n"
    replace_file(path, lambda file: file.write(text.encode()), partial=path.with_suffix(".json.partial"))


@dataclass(frozen=True)
class Plan:
    """A plan whose identity fits its bundle. Use :func:`open_plan`."""

    bundle: Path
    contract: NetworkContract
    record: PlanRecord

    @property
    def path(self) -> Path:
        """The plan's file."""
        return plan_path(self.bundle, self.record.identity.target, self.record.identity.network)

    def check_host(self, target_version: str, gpu: GpuProperties) -> None:
        """Check that this machine is one that the plan was built for.

        Args:
            target_version: full version of the installed library, e.g. ``"1.7.1.116"``.
            gpu: the GPU that shall run it.

        Raises:
            PlanError: ingredient ``target_version``, ``compute`` or ``tuned_for``.
        """
        identity, here = self.record.identity, TunedFor.of(gpu)
        if not self._version_fits(target_version):
            raise self._stale("target_version", identity.target_version, f"{target_version}, the installed one")
        if not covers(identity.compute, gpu.compute_capability):
            raise self._stale("compute", ", ".join(identity.compute), f"{gpu.compute_capability}, this GPU's")
        if identity.tuned_for not in (None, here):
            several = "; for several models of GPU, with --hardware-compatibility same_compute_capability"
            raise self._stale("tuned_for", str(identity.tuned_for), f"{here}, this GPU", several)

    def profile(self, symbols: Mapping[str, int]) -> int:
        """The index of the first profile that accepts these sizes.

        Raises:
            PlanError: ingredient ``profiles``; the message lists what the plan accepts.
        """
        needed = {s: symbols[s] for s in self.contract.symbols if s in symbols}
        for index, profile in enumerate(self.record.identity.profiles):
            if all(profile[s][0] <= size <= profile[s][2] for s, size in needed.items()):
                return index
        found = "; or ".join(describe_profile(profile) for profile in self.record.identity.profiles)
        wanted = ", ".join(f"{symbol}={size}" for symbol, size in needed.items())
        raise self._stale("profiles", found, wanted, " with --slots or --sizes that include it")

    def open_verified(self) -> BufferedReader:
        """The plan as an open file at its start, after its digest was verified on that very file.

        Raises:
            PlanError: ingredient ``file``.
        """
        found = []
        for path in (self.path, new_plan_path(self.bundle, self.record.identity.target, self.record.identity.network)):
            if not path.is_file():
                continue
            file, is_valid, described = self._opened(path)
            if is_valid:
                return file
            file.close()
            found.append(described)
        raise PlanError(
            f"{self.path} was altered after it was built",
            ingredient="file",
            found=f"{found[0] if found else 'no file'}, expected {self.record.file.bytes} bytes with SHA-256 "
            f"{self.record.file.sha256}",
            hint=f"build it again with {self._command()}",
        )

    def _opened(self, path: Path) -> tuple[BufferedReader, bool, str]:
        """The file at its start, whether it is this plan, and what it is."""
        file = path.open("rb")
        try:
            size, digest = _size_and_digest(file)
        except BaseException:
            file.close()
            raise
        return file, self._is(size, digest), f"{size} bytes with SHA-256 {digest}"

    def is_in(self, file: BufferedReader) -> bool:
        """Whether an open file, left at its start, holds this plan."""
        return self._is(*_size_and_digest(file))

    def _is(self, size: int, digest: str) -> bool:
        return (size, digest) == (self.record.file.bytes, self.record.file.sha256)

    def _version_fits(self, installed: str) -> bool:
        """The same version; a version-compatible plan also runs on later minor versions of the same major one."""
        built = self.record.identity.target_version
        if not self.record.identity.options.get("version_compatible"):
            return built == installed
        old, new = (numbers(version)[:3] for version in (built, installed))
        return old[0] == new[0] and old <= new

    def _stale(self, ingredient: str, found: str, expected: str, extra: str = "") -> PlanError:
        identity = self.record.identity
        return _stale_plan(self.bundle, identity.target, identity.network, ingredient, found, expected, extra)

    def _command(self) -> str:
        return build_command(self.bundle, self.record.identity.target, self.record.identity.network)


class VerifiedFile:
    """A plan's file, opened and verified when it is first asked for, and the very same file whenever it is again.

    Its digest is computed again only if the file was touched since: a plan of gigabytes would take seconds. A new build
    replaces the file; this one stays valid as long as it is open.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._file: BufferedReader | None = None
        self._state: tuple[int, int, int] | None = None

    def verified(self) -> BufferedReader:
        """The open file; stays this object's.

        Raises:
            PlanError: ingredient ``file``.
        """
        if self._file is not None and self._state != _state(self._file) and not self._plan.is_in(self._file):
            self.close()
        if self._file is None:
            self._file = self._plan.open_verified()
        self._state = _state(self._file)
        return self._file

    def close(self) -> None:
        """Close the file; may be called more than once."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _size_and_digest(file: BufferedReader) -> tuple[int, str]:
    """Of an open file, which is left at its start."""
    file.seek(0)
    size, digest = os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()
    file.seek(0)
    return size, digest


def _state(file: BufferedReader) -> tuple[int, int, int]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def open_plan(bundle: Bundle, target: str, network: str) -> Plan:
    """The plan of a network, checked against the bundle it lies in.

    Raises:
        PlanError: missing, unreadable, edited, made from something else than this bundle's ONNX file, or without a
            builder flag that the runtime relies on; the message names the ingredient, what was found and expected, and
            the command that mends it.
        BundleError: the bundle has no such network.
    """
    if network not in bundle.manifest.networks:
        bundle.onnx(network)  # raises, with the command that adds it
    record = read_record(bundle.folder, target, network)
    identity = record.identity
    wanted = {
        "network": network,
        "target": target,
        "onnx": onnx_digests(bundle, network),
        "precision": bundle.precision,
    }
    for ingredient, expected in wanted.items():
        found = getattr(identity, ingredient)
        if found != expected:
            raise _stale_plan(bundle.folder, target, network, ingredient, str(found), str(expected))
    lacking = [] if identity.options.get("weight_streaming") else _lacking_flags(identity)
    if lacking:
        expected = f"the builder flag {', '.join(lacking)}"
        raise _stale_plan(bundle.folder, target, network, "options", str(identity.options), expected)
    return Plan(bundle.folder, bundle.contracts[network], record)


def _lacking_flags(identity: PlanIdentity) -> list[str]:
    needed = FLAVOURS[identity.target].capture_flags if identity.target in FLAVOURS else ()
    built_with = str(identity.options.get("flags", "")).split()
    return [flag for flag in needed if flag not in built_with]


def _stale_plan(
    bundle: Path, target: str, network: str, ingredient: str, found: str, expected: str, extra: str = ""
) -> PlanError:
    return PlanError(
        f"the {target} plan of {network} is stale: wrong {ingredient}",
        ingredient=ingredient,
        found=f"{found}; expected: {expected}",
        hint=f"build it again with {build_command(bundle, target, network)}{extra}",
    )


def describe_profile(profile: Profile) -> str:
    """``"B 1-4 (best 1), H 1024"``."""
    parts = (
        f"{s} {low}" if low == high else f"{s} {low}-{high} (best {best})" for s, (low, best, high) in profile.items()
    )
    return ", ".join(parts) or "no free sizes"


def _seal(data: Mapping[str, Any]) -> str:
    canonical = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
