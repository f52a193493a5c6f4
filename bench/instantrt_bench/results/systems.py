"""The systems that are measured, one row each: commands, goals, comparisons and reports take their facts from here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from instantrt_bench.results.machine import installed_version

Kind = Literal["runtime", "reference"]
BYTES_OF = {"fp32": 4, "fp16": 2, "bf16": 2}
"""Of one number, by the names of dtypes in arguments and files."""
DTYPES = tuple(BYTES_OF)

RUNTIME_ONNXRUNTIME = "runtime-onnxruntime"
REFERENCE_EAGER = "reference-eager"
REFERENCE_COMPILED = "reference-compiled"
BF16_FLOOR_DB = 28.0
"""bf16 computes other numbers than fp32. Of 11 requests to nano (4 to 30 steps, 64 to 256 px, 1 and 4 samples), eager
torch in bf16 gave pictures 36.9 dB from its fp32 ones at worst, 40.5 on average (SSIM at least 0.992). Pictures of
another seed or prompt are 7 to 15 dB apart."""


@dataclass(frozen=True, kw_only=True)
class SystemRow:
    """One system.

    Args:
        id: its name in arguments and files.
        kind: the runtime on a target, or the reference.
        target: of the runtime, a key of :data:`instantrt.targets.TARGETS`.
        on_gpu: whether the target runs on a GPU; the reference runs where it is told to.
        compiled: whether the reference's networks are under ``torch.compile``.
        dtype: what it computes in whatever the bundle's precision is; None leaves that to bundle or command.
        load_options: of :meth:`instantrt.InstantID.load`, beside target and threads.
        distribution: what must be installed beside the benchmarks' own requirements.
        min_psnr_db: floor of its pictures' PSNR to pictures in fp32; None takes that of all.
        colour: in the report, a variable of its style sheet.
    """

    id: str
    kind: Kind
    target: str | None = None
    on_gpu: bool = False
    compiled: bool = False
    dtype: str | None = None
    load_options: Mapping[str, Any] = field(default_factory=dict)
    distribution: str | None = None
    min_psnr_db: float | None = None
    colour: str

    @property
    def installed(self) -> bool:
        """Whether what it needs is there."""
        return self.distribution is None or installed_version(self.distribution) is not None


BF16: dict[str, Any] = {"dtype": "bf16", "min_psnr_db": BF16_FLOOR_DB}
OPENVINO: dict[str, Any] = {"kind": "runtime", "target": "openvino", "distribution": "openvino"}
ROWS = (
    SystemRow(id=RUNTIME_ONNXRUNTIME, kind="runtime", target="onnxruntime", colour="s1"),
    SystemRow(id="runtime-openvino", **OPENVINO, dtype="fp32", load_options={"precision_hint": "f32"}, colour="s2"),
    SystemRow(id="runtime-openvino-bf16", **OPENVINO, **BF16, load_options={"precision_hint": "bf16"}, colour="s3"),
    SystemRow(id="runtime-onnxruntime-cuda", kind="runtime", target="onnxruntime-cuda", on_gpu=True, colour="s5"),
    SystemRow(id="runtime-tensorrt", kind="runtime", target="tensorrt", on_gpu=True, colour="s2"),
    SystemRow(id="runtime-tensorrt-rtx", kind="runtime", target="tensorrt-rtx", on_gpu=True, colour="s3"),
    SystemRow(id=REFERENCE_EAGER, kind="reference", colour="s0"),
    SystemRow(id=REFERENCE_COMPILED, kind="reference", compiled=True, colour="s4"),
    SystemRow(id="reference-eager-bf16", kind="reference", **BF16, colour="s5"),
    SystemRow(id="reference-compiled-bf16", kind="reference", compiled=True, **BF16, colour="s6"),
)
SYSTEMS = {row.id: row for row in ROWS}
REFERENCES = tuple(row.id for row in ROWS if row.kind == "reference")
"""In the order in which they judge: pictures are held against those of the first that is there."""
CPU_MATRIX = tuple(row for row in ROWS if not row.on_gpu)
"""Everything that a user would pick on a CPU."""


def runtime_system(target: str, precision_hint: str | None) -> str:
    """The id of the runtime on a target that was given this precision hint."""
    bf16 = precision_hint == "bf16"
    return next(row.id for row in ROWS if row.target == target and (row.dtype == "bf16") == bf16)


def psnr_floor_db(systems: Iterable[str], asked_db: float) -> float:
    """What pictures of these systems must reach against each other: what was asked, or less where a row says so."""
    floors = (SYSTEMS[name].min_psnr_db for name in systems)
    return min([asked_db, *(floor for floor in floors if floor is not None)])
