"""`instantrt doctor`: what this machine can do, and what is missing for the rest."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from instantrt.cli.arguments import add_json_argument
from instantrt.cli.command import Command, ExitStatus, print_json
from instantrt.engine import ONNXRUNTIME_CUDA, OPENVINO
from instantrt.engine.flavours import FLAVOURS, Flavour
from instantrt.errors import DeviceError, MissingExtraError
from instantrt.version import __version__

if TYPE_CHECKING:
    from instantrt.device.properties import GpuProperties


@dataclass(frozen=True)
class DoctorOptions:
    """The command's options."""

    target: str | None = None
    json: bool = False


@dataclass(frozen=True)
class Ability:
    """Something InstantRT can do, the distributions it needs, and the extra that installs them."""

    name: str
    distributions: tuple[str, ...]
    extra: str
    needs_gpu: bool = False
    target: str | None = None  # what runs here when it is there
    flavour: Flavour | None = None  # which does not run on every GPU


_RTX = ("tensorrt-rtx-cu13-bindings", "onnxruntime-ep-nv-tensorrt-rtx-cu13")
_BUILD = ("onnx", "onnx-graphsurgeon", "onnxruntime")
_CUDA = ("cuda-core", "cuda-bindings")
_RTX_FLAVOUR, _DATACENTER = FLAVOURS["tensorrt-rtx"], FLAVOURS["tensorrt"]

INSTEAD = {"onnxruntime": ("onnxruntime-gpu",)}  # distributions that hold all of another one

ABILITIES = (
    Ability("generate on the CPU (onnxruntime)", ("onnxruntime",), "cpu", target="onnxruntime"),
    Ability("generate on the CPU, or on Intel's devices (openvino)", ("openvino",), "openvino", target=OPENVINO),
    Ability("export checkpoints", ("torch", "diffusers", "transformers", "onnx", "onnxscript"), "export"),
    Ability("build TensorRT-RTX plans", (*_RTX, *_BUILD), "rtx,build"),
    Ability("generate on NVIDIA GPUs (tensorrt-rtx)", (*_RTX, *_CUDA), "rtx", True, _RTX_FLAVOUR.target, _RTX_FLAVOUR),
    Ability("build TensorRT plans", ("tensorrt", *_BUILD, *_CUDA), "tensorrt,build", True, flavour=_DATACENTER),
    Ability("generate on NVIDIA GPUs (tensorrt)", ("tensorrt", *_CUDA), "tensorrt", True, "tensorrt", _DATACENTER),
    Ability("generate on NVIDIA GPUs (onnxruntime-cuda)", ("onnxruntime-gpu", *_CUDA), "cuda", True, ONNXRUNTIME_CUDA),
    Ability("compare with the reference", ("torch", "diffusers", "transformers", "scikit-image"), "bench"),
)


@dataclass(frozen=True)
class Finding:
    """Whether an ability is there, and if not, why and what to do; ``gpus`` are the ordinals of those that it takes."""

    name: str
    ready: bool
    found: dict[str, str]
    missing: tuple[str, ...]
    hint: str | None
    gpus: tuple[int, ...] = ()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    targets = [ability.target for ability in ABILITIES if ability.target]
    parser.add_argument("--target", choices=targets, help="exit with status 1 unless this one can run here")
    add_json_argument(parser)


@dataclass(frozen=True)
class Machine:
    """What there is to run on.

    Args:
        instantrt: version.
        python: version.
        platform: name and version of the system.
        cpu_threads: logical processors.
        cuda_driver: the newest CUDA version that the driver supports; None if there is none that can be asked.
        gpus: those visible.
        no_gpu: why there are none.
    """

    instantrt: str
    python: str
    platform: str
    cpu_threads: int | None
    cuda_driver: str | None
    gpus: tuple[GpuProperties, ...]
    no_gpu: str | None


def doctor(options: DoctorOptions) -> ExitStatus:
    """Look and report; a user's mistake only if the target that was asked for cannot run."""
    machine = examine_machine()
    findings = [examine(ability, machine) for ability in ABILITIES]
    if options.json:
        print_json({"machine": asdict(machine), "abilities": [asdict(f) for f in findings]})
    else:
        sys.stdout.write(_as_text(machine, findings))
    ready = {ability.target: finding.ready for ability, finding in zip(ABILITIES, findings, strict=True)}
    return ExitStatus.DONE if options.target is None or ready[options.target] else ExitStatus.USER_ERROR


def examine_machine() -> Machine:
    """Python, platform, processors, driver and GPUs; works without any extra."""
    driver: str | None = None
    gpus: tuple[GpuProperties, ...] = ()
    try:
        from instantrt.device.properties import cuda_version, visible_gpus

        driver = cuda_version()
        gpus = visible_gpus()
        no_gpu = None if gpus else "the driver sees none"
    except MissingExtraError:
        no_gpu = f"cannot look without {' and '.join(_CUDA)}"
    except DeviceError as error:
        no_gpu = error.found
    return Machine(__version__, platform.python_version(), platform.platform(), os.cpu_count(), driver, gpus, no_gpu)


def _as_text(machine: Machine, findings: list[Finding]) -> str:
    gpus = "; ".join(
        f"{gpu.name} (compute capability {gpu.compute_capability}, {gpu.multiprocessors} multiprocessors)"
        for gpu in machine.gpus
    )
    facts = {name: value for name, value in vars(machine).items() if name != "no_gpu"}
    facts["gpus"] = gpus or f"none: {machine.no_gpu}"
    lines = [f"{name:<14} {value if value is not None else 'none'}" for name, value in facts.items()] + [""]
    for finding in findings:
        details = [f"{name} {number}" for name, number in finding.found.items()]
        details += [f"GPU {', '.join(map(str, finding.gpus))}"] if finding.gpus else []
        found = f"  ({', '.join(details)})"
        lines.append(f"{'yes' if finding.ready else 'no ':<4} {finding.name}" + (found * finding.ready))
        if not finding.ready:
            hint = f"; {finding.hint}" if finding.hint else ""
            lines.append(f"       missing: {', '.join(finding.missing)}{hint}")
    return "\n".join(lines) + "\n"


def examine(ability: Ability, machine: Machine) -> Finding:
    """Check one ability's distributions and, where it needs one, whether there is a GPU that it runs on."""
    installed, missing = {}, []
    for name in ability.distributions:
        found = next((n for n in (name, *INSTEAD.get(name, ())) if _is_installed(n)), None)
        if found is None:
            missing.append(name)
        else:
            installed[found] = version(found)
    hint = f'pip install "instantrt[{ability.extra}]"' if missing else None
    flavour = ability.flavour
    refusals = {gpu.ordinal: None if flavour is None else flavour.refusal(gpu) for gpu in machine.gpus}
    gpus = tuple(ordinal for ordinal, refusal in refusals.items() if refusal is None) if ability.needs_gpu else ()
    if ability.needs_gpu and machine.no_gpu:
        if not set(_CUDA) & set(missing):
            missing.append(f"an NVIDIA GPU with its driver ({machine.no_gpu})")
    elif ability.needs_gpu and not gpus:
        refused = [refusal for refusal in refusals.values() if refusal is not None]
        missing.append("a GPU that it runs on: " + "; ".join(str(refusal.found) for refusal in refused))
        hint = refused[0].hint
    return Finding(ability.name, not missing, installed, tuple(missing), hint, gpus)


def _is_installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True


def _load() -> Callable[[DoctorOptions], ExitStatus]:
    return doctor


COMMAND = Command(
    "doctor",
    "what this machine can do, and what is missing for the rest",
    DoctorOptions,
    add_arguments,
    _load,
    lambda _: "cpu",
)
