"""OpenVINO as a target: CPUs, and Intel's devices, through a bundle's ONNX files on host buffers.

On a CPU it is worth its place where bf16 has hardware of its own (AMX, AVX-512 BF16); bf16 is never chosen by itself.
**Its devices GPU and NPU have not run here.**
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from instantrt.bundle import EXPORT_AGAIN, Bundle, network_files
from instantrt.contracts import NetworkContract, TensorSpec, resolve_dim
from instantrt.device import Array, Buffer, Stream
from instantrt.device.host import HostDevice
from instantrt.engine import OPENVINO, BusyTime, OpenVinoDevice, PrecisionHint, TargetOptions
from instantrt.engine.onnxruntime import ExportedRanges, check_host_options
from instantrt.engine.openvino_cache import CompiledCache, file_name
from instantrt.errors import BundleError, DeviceError, EngineError, MissingExtraError, RequestError
from instantrt.quiet import hidden
from instantrt.residency import Residency
from instantrt.threads import useful_threads

CAPABILITIES: dict[PrecisionHint, str] = {"f32": "FP32", "bf16": "BF16"}
"""What OpenVINO calls a device's ability to compute in each."""
EXACT_NETWORKS = ("face_detector", "face_encoder", "time_embedding")
"""Computed in fp32 also where bf16 is asked for. They run once a request and are fp32 for their digits: bf16 has none
in which the time steps 997 and 1000 differ, so that time embeddings would be a quarter off."""
ANY_SIZE = -1  # of an axis


def import_openvino() -> Any:
    """The openvino module, or an error that says how to get it.

    Importing it would send an event, with an id that it keeps in the home folder; its own fallback sends none.
    """
    try:
        with hidden("openvino_telemetry"):
            import openvino
    except ImportError as error:
        raise MissingExtraError(f"Running on {OPENVINO}", "openvino", str(error)) from error
    return openvino


@cache
def kept(core: Callable[[], Any]) -> Any:
    """OpenVINO's core, made once and never given up.

    With its first network a core gives the thread a stack for signals, and takes it back when it goes. Of two cores,
    the one that goes last restores the other's, which is gone: Ctrl-C would then end the process without a word.
    """
    return core()


class OpenVinoTarget:
    """Runs a bundle's networks on one OpenVINO device.

    Args:
        bundle: where the ONNX files are.
        options: ``threads`` that one network may use, capped to the usable CPUs; None leaves the choice to OpenVINO.
            ``precision_hint`` ``f32`` or ``bf16``; None is f32, or what an NPU has instead, with a warning.
            ``openvino_device`` and ``device``: kind and number of the device; None is the CPU, and the first one.
            ``runtime_cache``: folder for compiled networks; None keeps none. ``residency`` ``resident`` or ``staged``.

    Raises:
        MissingExtraError: the package is not installed.
        DeviceError: there is no such device, or it does not compute in that precision.
        RequestError: an option that it lacks.
    """

    name = OPENVINO
    options = ("threads", "residency", "runtime_cache", "precision_hint", "openvino_device", "device")
    capturable = True

    def __init__(self, bundle: Bundle, options: TargetOptions) -> None:
        self.check(options)
        self.residency: Residency = "staged" if options.residency == "staged" else "resident"
        self._ov = import_openvino()
        self._bundle, self._ranges = bundle, ExportedRanges(bundle)
        self._core = kept(self._ov.Core)
        self._place = find_device(self._core.available_devices, options.openvino_device or "CPU", options.device or 0)
        threads, self.warnings = (0, ()) if options.threads is None else useful_threads(options.threads)
        hint = self._precision(options.precision_hint)
        self._config = compile_config(self._place, threads, hint)
        self._exact = compile_config(self._place, threads, "f32" if hint == "bf16" else hint)
        self._cache = None if options.runtime_cache is None else CompiledCache(options.runtime_cache)
        self.device = HostDevice()

    @classmethod
    def check(cls, options: TargetOptions) -> None:
        """Raise :class:`RequestError` for an option or a residency that it lacks."""
        check_host_options(cls.name, cls.options, options)
        if options.threads is not None and options.openvino_device not in (None, "CPU"):
            raise RequestError(
                "threads are those of the CPU",
                found=f"{options.threads} threads for OpenVINO's device {options.openvino_device}",
                hint="leave out threads",
            )

    def accepts(self, network: str, symbols: Mapping[str, int]) -> bool:
        """Whether the bundle's graphs were exported for so many slots and guidance batch."""
        return self._ranges.accept(network, symbols)

    def load(self, network: str, symbols: Mapping[str, int]) -> OpenVinoEngine:
        """Compile ``network``, or take it from the cache; axes of the named symbols become constants.

        Raises:
            BundleError: OpenVINO cannot read the graph.
            EngineError: it cannot compile it.
            DeviceError: it would compute in another precision than asked for.
            RequestError: more or fewer slots or guidance batch than the bundle was exported for.
        """
        self._ranges.check(network, symbols)
        contract = self._bundle.contracts[network]
        try:
            compiled = self._compiled(self._bundle.onnx(network), contract, symbols)
        except RuntimeError as error:  # the only one that OpenVINO's binding raises
            raise EngineError(
                f"OpenVINO cannot compile {network} for its device {self._place}",
                found=str(error),
                hint="use a newer openvino, another device or another target; empty the runtime cache if it has one",
            ) from error
        self._check_precision(network, compiled)
        return OpenVinoEngine(self._ov, contract, compiled)

    def close(self) -> None:
        """Nothing is held: compiled networks belong to their engines."""

    def _precision(self, asked: PrecisionHint | None) -> PrecisionHint | None:
        """What networks shall compute in; None leaves it to a device that has no fp32."""
        able = self._core.get_property(self._place, "OPTIMIZATION_CAPABILITIES")
        if asked is None and CAPABILITIES["f32"] not in able:
            self.warnings += (f"{self._place} computes in a precision of its own: it has {', '.join(able)}",)
            return None
        hint = asked or "f32"
        if CAPABILITIES[hint] not in able:
            raise DeviceError(
                f"this machine's OpenVINO device {self._place} does not compute in {hint}",
                found=f"{self._core.get_property(self._place, 'FULL_DEVICE_NAME')}: {', '.join(able)}",
                hint="leave out the precision hint, or use another device",
            )
        return hint

    def _config_of(self, network: str) -> dict[str, Any]:
        """How a network is compiled."""
        return self._exact if network in EXACT_NETWORKS else self._config

    def _check_precision(self, network: str, compiled: Any) -> None:
        """What a device does not have in hardware it may replace without a word."""
        asked = self._config_of(network).get("INFERENCE_PRECISION_HINT")
        found = compiled.get_property("INFERENCE_PRECISION_HINT")
        if asked is not None and found != getattr(self._ov.Type, asked):
            raise DeviceError(
                f"OpenVINO does not compute {network} in {asked} on its device {self._place}",
                found=str(found),
                hint="use another precision hint or another device",
            )

    def _compiled(self, path: Path, contract: NetworkContract, symbols: Mapping[str, int]) -> Any:
        if self._cache is None:
            return self._compile(path, contract, symbols)
        name = self._cache_name(contract, symbols)
        blob = self._cache.read(name)
        if blob is not None:
            return self._core.import_model(self._ov.Tensor(blob), self._place, self._config_of(contract.name))
        compiled = self._compile(path, contract, symbols)
        exported = BytesIO()
        compiled.export_model(exported)
        self._cache.keep(name, exported.getbuffer())
        return compiled

    def _cache_name(self, contract: NetworkContract, symbols: Mapping[str, int]) -> str:
        """The name of a compiled network's file, which is another one if anything that changes it is."""
        files = self._bundle.manifest.files
        return file_name(
            contract.name,
            {
                "openvino": self._ov.get_version(),
                "place": self._place,
                "device": self._core.get_property(self._place, "FULL_DEVICE_NAME"),
                "capabilities": self._core.get_property(self._place, "OPTIMIZATION_CAPABILITIES"),
                "config": self._config_of(contract.name),
                "files": {name: files[name].sha256 for name in network_files(contract.name) if name in files},
                "symbols": dict(symbols),
            },
        )

    def _compile(self, path: Path, contract: NetworkContract, symbols: Mapping[str, int]) -> Any:
        try:
            model = self._core.read_model(path)
        except RuntimeError as error:
            hint = f"{EXPORT_AGAIN}, or use a newer openvino"
            raise BundleError(f"OpenVINO cannot read {path.name}", found=str(error), hint=hint) from error
        if symbols:
            model.reshape({spec.name: fixed_shape(spec, symbols) for spec in contract.inputs})
        return self._core.compile_model(model, self._place, self._config_of(contract.name))


class OpenVinoEngine:
    """One compiled network with its request. On a CPU it reads inputs and writes outputs where our buffers are."""

    def __init__(self, ov: Any, contract: NetworkContract, compiled: Any) -> None:
        self.contract = contract
        self._ov = ov
        self._busy = BusyTime()
        self._request = compiled.create_infer_request()
        self._names = {spec.name for spec in (*contract.inputs, *contract.outputs)}

    @property
    def busy_ns(self) -> int:
        """Time that the calling thread has spent inside OpenVINO since loading."""
        return self._busy.ns

    def bind(self, name: str, buffer: Buffer) -> None:
        """Make ``buffer`` the input or output of that name."""
        if name not in self._names:
            raise KeyError(f"{self.contract.name} has no input or output {name!r}")
        self._request.set_tensor(name, self._ov.Tensor(host_view(buffer), shared_memory=True))

    def warm_up(self, stream: Stream, *, capture: bool) -> None:
        """Nothing is left to the first execution."""

    def enqueue(self, stream: Stream) -> None:
        """Put one execution on the stream."""
        stream.submit(self._run)

    def close(self) -> None:
        """Drop the compiled network and its request."""
        self._request = None

    def _run(self) -> None:
        with self._busy.measured():
            self._request.infer(share_outputs=True)  # without, every output would be copied once more


def find_device(available: Sequence[str], kind: OpenVinoDevice, ordinal: int) -> str:
    """OpenVINO's name of a device, e.g. ``GPU.1`` for the second one of two.

    Args:
        available: what OpenVINO sees, e.g. ``["CPU", "GPU.0", "GPU.1"]``.
        kind: of the device.
        ordinal: among those of its kind.

    Raises:
        DeviceError: there is none.
    """
    of_kind = [name for name in available if name.partition(".")[0] == kind]
    if ordinal < len(of_kind):
        return of_kind[ordinal]
    raise DeviceError(
        f"OpenVINO sees no device {kind}" + (f" of number {ordinal}" if of_kind else ""),
        found=", ".join(available) or "no device at all",
        hint="use one of these; others need Intel's driver for them",
    )


def compile_config(place: str, threads: int, hint: PrecisionHint | None) -> dict[str, Any]:
    """How networks are compiled: for the shortest time of one request at a time.

    Args:
        place: the device's name.
        threads: of one network; 0 leaves their number to OpenVINO.
        hint: what it computes in; None leaves that to the device.
    """
    config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if hint is not None:
        config["INFERENCE_PRECISION_HINT"] = hint
    if place == "CPU":
        config["NUM_STREAMS"] = 1
        config["ENABLE_CPU_PINNING"] = False  # other processes may use these CPUs too; the system knows which are free
        config["INFERENCE_NUM_THREADS"] = threads
    return config


def fixed_shape(spec: TensorSpec, symbols: Mapping[str, int]) -> list[int]:
    """An input's shape with the axes of the named symbols in numbers and all others free."""
    known = {dim for dim in spec.shape if isinstance(dim, int) or dim.partition("/")[0] in symbols}
    return [resolve_dim(dim, symbols) if dim in known else ANY_SIZE for dim in spec.shape]


def host_view(buffer: Buffer) -> Array:
    """The memory of a buffer on the host as an array of its shape and dtype; nothing is copied."""
    size = int(np.prod(buffer.shape)) * buffer.dtype.itemsize
    memory: Any = (ctypes.c_byte * size).from_address(buffer.address)
    return np.frombuffer(memory, buffer.dtype).reshape(buffer.shape)
