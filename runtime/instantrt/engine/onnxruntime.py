"""ONNX Runtime as a target: CPU execution of a bundle's ONNX files through IO binding on host buffers.

What its CUDA provider shares with that is here too; the rest of it is in :mod:`instantrt.engine.onnxruntime_cuda`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instantrt.bundle import COPY_LINKED, EXPORT_AGAIN, Bundle, linked_data
from instantrt.contracts import Dim, NetworkContract, resolve_dim
from instantrt.device import Buffer, Stream
from instantrt.device.host import HostDevice
from instantrt.engine import ONNXRUNTIME, BusyTime, TargetOptions
from instantrt.errors import BundleError, MissingExtraError, RequestError
from instantrt.residency import Residency
from instantrt.threads import useful_threads

CUDA_OPTIONS = ("device",)  # of the target on the CUDA provider
ERROR = 3  # the least severe messages that are shown


def import_onnxruntime() -> Any:
    """The onnxruntime module, or an error that says how to get it."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("Running on ONNX Runtime", "cpu", str(error)) from error
    return onnxruntime


def session_options(ort: Any, threads: int = 0) -> Any:
    """Options of every session; 0 threads leave their number to ONNX Runtime."""
    options = ort.SessionOptions()
    options.log_severity_level = ERROR
    options.intra_op_num_threads = threads
    # Two loop networks take turns: a pool that spins while the other one works would take its cores.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def fix_axes(options: Any, contract: NetworkContract, symbols: Mapping[str, int]) -> None:
    """Make constants of the axes with these symbols, which lets ONNX Runtime fold what is computed from them."""
    for axis, size in _fixed_axes(contract, symbols).items():
        options.add_free_dimension_override_by_name(axis, size)


def check_host_options(target: str, supported: tuple[str, ...], options: TargetOptions) -> None:
    """Raise :class:`RequestError` for an option or a residency that a target in host memory lacks."""
    options.check(target, supported)
    if options.residency in ("streaming", "auto"):
        raise RequestError(
            f"{target} has no residency {options.residency}",
            found="host memory, of which a network's need is not known before it runs",
            hint="use staged where the networks' weights do not fit together, else resident",
        )


def loading_error(path: Path, error: Exception) -> BundleError:
    """What ONNX Runtime said of a graph, with what to do.

    Args:
        path: the bundle's ONNX file.
        error: of ONNX Runtime.
    """
    link = linked_data(path) if "xternal data" in str(error) else None
    return BundleError(
        f"ONNX Runtime cannot load {path.name}",
        found=link or str(error),
        hint=COPY_LINKED if link else f"{EXPORT_AGAIN}, or use a newer onnxruntime",
    )


@dataclass(frozen=True)
class ExportedRanges:
    """How many slots and which guidance batch the graphs of a bundle accept."""

    bundle: Bundle

    def accept(self, network: str, symbols: Mapping[str, int]) -> bool:
        """Whether ``network`` accepts these."""
        free = self.bundle.contracts[network].symbols
        ranges = {symbol: extent for symbol, extent in self._ranges.items() if symbol in free}
        return all(low <= symbols.get(symbol, low) <= high for symbol, (low, high) in ranges.items())

    def check(self, network: str, symbols: Mapping[str, int]) -> None:
        """Raise :class:`RequestError` unless it does."""
        if self.accept(network, symbols):
            return
        allowed = ", ".join(f"{s} {low} to {high}" for s, (low, high) in self._ranges.items())
        raise RequestError(
            f"the bundle was exported for {allowed}",
            found=", ".join(f"{s} {size}" for s, size in symbols.items()),
            hint="export it again with `instantrt export` for slots B and guidance batch G that include these",
        )

    @property
    def _ranges(self) -> dict[str, tuple[int, int]]:
        return {"B": self.bundle.manifest.slots, "G": self.bundle.manifest.guidance_batch}


class OnnxRuntimeTarget:
    """Runs a bundle's networks on the CPU.

    Args:
        bundle: where the ONNX files are.
        options: ``threads`` that one network may use, capped to the usable CPUs; None leaves the choice to ONNX Runtime
            (one per physical core). ``residency`` ``resident`` or ``staged``.
    """

    name = ONNXRUNTIME
    options = ("threads", "residency")
    capturable = True

    def __init__(self, bundle: Bundle, options: TargetOptions) -> None:
        self.check(options)
        self.residency: Residency = "staged" if options.residency == "staged" else "resident"
        self._ort = import_onnxruntime()
        self._bundle, self._ranges = bundle, ExportedRanges(bundle)
        self._threads, self.warnings = (0, ()) if options.threads is None else useful_threads(options.threads)
        self.device = HostDevice()

    @classmethod
    def check(cls, options: TargetOptions) -> None:
        """Raise :class:`RequestError` for an option or a residency that it lacks."""
        check_host_options(cls.name, cls.options, options)

    def accepts(self, network: str, symbols: Mapping[str, int]) -> bool:
        """Whether the bundle's graphs were exported for so many slots and guidance batch."""
        return self._ranges.accept(network, symbols)

    def load(self, network: str, symbols: Mapping[str, int]) -> OnnxRuntimeEngine:
        """A session for ``network``; axes of the named symbols become constants.

        Raises:
            RequestError: more or fewer slots or guidance batch than the bundle was exported for.
        """
        self._ranges.check(network, symbols)
        contract = self._bundle.contracts[network]
        path = self._bundle.onnx(network)
        options = session_options(self._ort, self._threads)
        fix_axes(options, contract, symbols)
        try:
            session = self._ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors share no public base class
            raise loading_error(path, error) from error
        return OnnxRuntimeEngine(contract, session, HOST)

    def close(self) -> None:
        """Nothing is held: sessions belong to their engines."""


@dataclass(frozen=True)
class Place:
    """Where a session finds its buffers.

    Args:
        device: ONNX Runtime's name for the kind of memory.
        ordinal: which device of that kind.
        run_options: of every run; None for ONNX Runtime's own.
    """

    device: str
    ordinal: int = 0
    run_options: Any = None


HOST = Place("cpu")


class OnnxRuntimeEngine:
    """One session with its binding. Inputs and outputs are bound by address, so nothing is copied in between."""

    def __init__(self, contract: NetworkContract, session: Any, place: Place) -> None:
        self.contract = contract
        self._busy = BusyTime()
        self._session = session
        self._place = place
        self._binding = session.io_binding()
        self._inputs = {i.name for i in session.get_inputs()}
        self._outputs = {o.name for o in session.get_outputs()}

    @property
    def busy_ns(self) -> int:
        """Time that the calling thread has spent inside ONNX Runtime since loading."""
        return self._busy.ns

    def bind(self, name: str, buffer: Buffer) -> None:
        """Make ``buffer`` the input or output of that name."""
        if name in self._inputs:
            put = self._binding.bind_input
        elif name in self._outputs:
            put = self._binding.bind_output
        else:
            raise KeyError(f"{self.contract.name} has no input or output {name!r}")
        put(name, self._place.device, self._place.ordinal, buffer.dtype.type, buffer.shape, buffer.address)

    def warm_up(self, stream: Stream, *, capture: bool) -> None:
        """Nothing is left to the first execution."""

    def enqueue(self, stream: Stream) -> None:
        """Put one execution on the stream."""
        stream.submit(self._run)

    def close(self) -> None:
        """Drop the session and its binding."""
        self._binding = self._session = None

    def _run(self) -> None:
        with self._busy.measured():
            self._session.run_with_iobinding(self._binding, self._place.run_options)


def _fixed_axes(contract: NetworkContract, symbols: Mapping[str, int]) -> dict[str, int]:
    """The contract's symbolic input axes whose symbol is given, in numbers: ``{"B": 1, "H/8": 128}``."""
    axes: dict[str, int] = {}
    for spec in contract.inputs:
        for dim in spec.shape:
            if isinstance(dim, str) and _symbol(dim) in symbols:
                axes[dim] = resolve_dim(dim, symbols)
    return axes


def _symbol(dim: Dim) -> str:
    return str(dim).partition("/")[0]
