"""ONNX Runtime as a target: CPU execution of a bundle's ONNX files through IO binding on host buffers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from instantrt.bundle import COPY_LINKED, EXPORT_AGAIN, Bundle, linked_data
from instantrt.contracts import Dim, NetworkContract, resolve_dim
from instantrt.device import Buffer, Stream
from instantrt.device.host import HostDevice
from instantrt.engine import BusyTime, TargetOptions
from instantrt.errors import BundleError, MissingExtraError, RequestError
from instantrt.threads import useful_threads

WARNING = 2
ERROR = 3


def import_onnxruntime() -> Any:
    """The onnxruntime module, or an error that says how to get it."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("Running on ONNX Runtime", "cpu", str(error)) from error
    return onnxruntime


class OnnxRuntimeTarget:
    """Runs a bundle's networks on the CPU.

    Args:
        bundle: where the ONNX files are.
        options: ``threads`` that one network may use, capped to the usable CPUs; None leaves the choice to ONNX Runtime
            (one per physical core).
    """

    name = "onnxruntime"
    options = ("threads",)
    capturable = True

    def __init__(self, bundle: Bundle, options: TargetOptions) -> None:
        options.check(self.name, self.options)
        self._ort = import_onnxruntime()
        self._bundle = bundle
        self._threads, self.warnings = (0, ()) if options.threads is None else useful_threads(options.threads)
        self.device = HostDevice()

    def accepts(self, network: str, symbols: Mapping[str, int]) -> bool:
        """Whether the bundle's graphs were exported for so many slots and guidance batch."""
        free = self._bundle.contracts[network].symbols
        ranges = {symbol: extent for symbol, extent in self._ranges().items() if symbol in free}
        return all(low <= symbols.get(symbol, low) <= high for symbol, (low, high) in ranges.items())

    def load(self, network: str, symbols: Mapping[str, int]) -> OnnxRuntimeEngine:
        """A session for ``network``; axes of the named symbols become constants, which lets ONNX Runtime fold them.

        Raises:
            RequestError: more or fewer slots or guidance batch than the bundle was exported for.
        """
        if not self.accepts(network, symbols):
            allowed = ", ".join(f"{s} {low} to {high}" for s, (low, high) in self._ranges().items())
            raise RequestError(
                f"the bundle was exported for {allowed}",
                found=", ".join(f"{s} {size}" for s, size in symbols.items()),
                hint="export it again with `instantrt export` for slots B and guidance batch G that include these",
            )
        contract = self._bundle.contracts[network]
        path = self._bundle.onnx(network)
        options = self._session_options()
        for axis, size in _fixed_axes(contract, symbols).items():
            options.add_free_dimension_override_by_name(axis, size)
        return OnnxRuntimeEngine(contract, self._session(path, options))

    def close(self) -> None:
        """Nothing is held: sessions belong to their engines."""

    def _ranges(self) -> dict[str, tuple[int, int]]:
        return {"B": self._bundle.manifest.slots, "G": self._bundle.manifest.guidance_batch}

    def _session_options(self) -> Any:
        options = self._ort.SessionOptions()
        options.log_severity_level = ERROR
        options.intra_op_num_threads = self._threads  # 0 lets ONNX Runtime choose
        # Two loop networks take turns: a pool that spins while the other one works would take its cores.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        return options

    def _session(self, path: Path, options: Any) -> Any:
        try:
            return self._ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors share no public base class
            link = linked_data(path) if "xternal data" in str(error) else None
            raise BundleError(
                f"ONNX Runtime cannot load {path.name}",
                found=link or str(error),
                hint=COPY_LINKED if link else f"{EXPORT_AGAIN}, or use a newer onnxruntime",
            ) from error


class OnnxRuntimeEngine:
    """One session with its binding. Inputs and outputs are bound by address, so nothing is copied in between."""

    def __init__(self, contract: NetworkContract, session: Any) -> None:
        self.contract = contract
        self._busy = BusyTime()
        self._session = session
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
        put(name, "cpu", 0, buffer.dtype.type, buffer.shape, buffer.address)

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
            self._session.run_with_iobinding(self._binding)


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
