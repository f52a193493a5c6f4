"""`instantrt doctor`: what this machine can do, and what is missing for the rest."""

from __future__ import annotations

import argparse
import ctypes
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from instantrt.cli.arguments import add_json_argument
from instantrt.cli.command import Command, ExitStatus, print_json


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


_RTX = ("tensorrt-rtx-cu13-bindings", "onnxruntime-ep-nv-tensorrt-rtx-cu13")
_CUDA = ("cuda-core", "cuda-bindings")

ABILITIES = (
    Ability("generate on the CPU (onnxruntime)", ("onnxruntime",), "cpu", target="onnxruntime"),
    Ability("export checkpoints", ("torch", "diffusers", "transformers", "onnx", "onnxscript"), "export"),
    Ability("build TensorRT-RTX plans", (*_RTX, "onnx"), "rtx,build"),
    Ability("generate on NVIDIA GPUs (tensorrt-rtx)", (*_RTX, *_CUDA), "rtx", True, "tensorrt-rtx"),
    Ability("build TensorRT plans", ("tensorrt", "onnx"), "tensorrt,build", needs_gpu=True),
    Ability("generate on NVIDIA GPUs (tensorrt)", ("tensorrt", *_CUDA), "tensorrt", True, "tensorrt"),
    Ability("compare with the reference", ("torch", "diffusers", "transformers", "scikit-image"), "bench"),
)


@dataclass(frozen=True)
class Finding:
    """Whether an ability is there, and if not, why and what to do."""

    name: str
    ready: bool
    found: dict[str, str]
    missing: tuple[str, ...]
    hint: str | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    targets = [ability.target for ability in ABILITIES if ability.target]
    parser.add_argument("--target", choices=targets, help="exit with status 1 unless this one can run here")
    add_json_argument(parser)


def doctor(options: DoctorOptions) -> ExitStatus:
    """Look and report; a user's mistake only if the target that was asked for cannot run."""
    machine = machine_facts()
    findings = [examine(ability, machine["cuda_driver"] is not None) for ability in ABILITIES]
    if options.json:
        print_json({"machine": machine, "abilities": [asdict(f) for f in findings]})
    else:
        sys.stdout.write(_as_text(machine, findings))
    ready = {ability.target: finding.ready for ability, finding in zip(ABILITIES, findings, strict=True)}
    return ExitStatus.DONE if options.target is None or ready[options.target] else ExitStatus.USER_ERROR


def _as_text(machine: dict[str, Any], findings: list[Finding]) -> str:
    lines = [f"{name:<14} {value if value is not None else 'none'}" for name, value in machine.items()] + [""]
    for finding in findings:
        versions = ", ".join(f"{name} {number}" for name, number in finding.found.items())
        lines.append(f"{'yes' if finding.ready else 'no ':<4} {finding.name}" + (f"  ({versions})" * finding.ready))
        if not finding.ready:
            hint = f"; {finding.hint}" if finding.hint else ""
            lines.append(f"       missing: {', '.join(finding.missing)}{hint}")
    return "\n".join(lines) + "\n"


def machine_facts() -> dict[str, Any]:
    """Python, platform, processors and the CUDA driver's version, None without one."""
    return {
        "instantrt": version("instantrt"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_threads": os.cpu_count(),
        "cuda_driver": cuda_driver_version(),
    }


def cuda_driver_version() -> str | None:
    """The CUDA version that the installed driver supports, or None if there is no driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    number = ctypes.c_int(0)
    if driver.cuDriverGetVersion(ctypes.byref(number)) != 0:
        return None
    return f"{number.value // 1000}.{number.value % 1000 // 10}"


def examine(ability: Ability, has_gpu: bool) -> Finding:
    """Check one ability's distributions, and the driver where it needs one."""
    found, missing = {}, []
    for name in ability.distributions:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            missing.append(name)
    hint = f'pip install "instantrt[{ability.extra}]"' if missing else None
    if ability.needs_gpu and not has_gpu:
        missing.append("an NVIDIA driver (libcuda.so.1)")
    return Finding(ability.name, not missing, found, tuple(missing), hint)


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
