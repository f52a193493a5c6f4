"""A double of onnxruntime-gpu above the stand-in driver: sessions on the CUDA provider, as the runtime uses them.

Everything else of the module is the installed onnxruntime. A run puts a host function on the stream that the session
was given; there the graph's arithmetic is done on the CPU, on the memory that was bound. What ONNX Runtime would abort
on, or do otherwise than is relied on, is collected in :attr:`OnnxRuntimeCudaDouble.violations`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
from cuda.bindings import driver

from doubles.cuda_double import CudaDouble

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
KNOWN_OPTIONS = {"device_id", "user_compute_stream", "use_tf32", "arena_extend_strategy"}
NO_FALLBACK, NO_WAITING = "session.disable_cpu_ep_fallback", "disable_synchronize_execution_providers"


@dataclass(frozen=True)
class Bound:
    """One tensor of a binding."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


@dataclass
class OnnxRuntimeCudaDouble:
    """The state behind one doubled module.

    Args:
        cuda: the stand-in driver.
    """

    cuda: CudaDouble
    violations: list[str] = field(default_factory=list)
    runs: int = 0
    no_fallback: list[bool] = field(default_factory=list)  # by session
    _pending: dict[int, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._keys = count(1)
        self._callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self._run)
        self.module = ModuleType("onnxruntime")
        self.module.__dict__.update(vars(onnxruntime))
        self.module.get_available_providers = lambda: [CUDA, CPU]  # type: ignore[attr-defined]
        self.module.InferenceSession = self._session  # type: ignore[attr-defined]

    def _session(
        self,
        path_or_bytes: Any,
        sess_options: Any = None,
        providers: Sequence[str] | None = None,
        provider_options: Sequence[dict[str, str]] | None = None,
    ) -> Any:
        if providers == [CPU]:
            return onnxruntime.InferenceSession(path_or_bytes, sess_options, providers=providers)
        assert providers == [CUDA]
        assert provider_options is not None
        return CudaSession(self, path_or_bytes, sess_options, provider_options[0])

    def submit(self, stream: int, work: Any) -> None:
        """Put ``work`` on a stream."""
        key = next(self._keys)
        self._pending[key] = work
        entry = driver.CUhostFn(ctypes.cast(self._callback, ctypes.c_void_p).value)
        (code,) = driver.cuLaunchHostFunc(stream, entry, key)
        if code != driver.CUresult.CUDA_SUCCESS:
            self.violations.append(f"a run could not be put on its stream: {code.name}")

    def _run(self, key: int) -> None:
        try:
            self._pending.pop(key)()
        except Exception as error:  # nothing may leave a host function
            self.violations.append(f"{type(error).__name__}: {error}")


class CudaSession:
    """A session on the CUDA provider."""

    def __init__(self, double: OnnxRuntimeCudaDouble, model: Any, options: Any, provider: dict[str, str]) -> None:
        self._double, self._stream = double, int(provider["user_compute_stream"])
        if set(provider) - KNOWN_OPTIONS or provider["device_id"] != "0":
            double.violations.append(f"options that the provider does not know: {provider}")
        if provider.get("use_tf32") != "0":  # it is on by default
            double.violations.append("fp32 products in TF32")
        options.intra_op_num_threads = 1
        double.no_fallback.append(_forbids_fallback(options))
        options.add_session_config_entry(NO_FALLBACK, "0")  # everything falls back here
        self._session = onnxruntime.InferenceSession(model, options, providers=[CPU])

    def get_inputs(self) -> Any:
        return self._session.get_inputs()

    def get_outputs(self) -> Any:
        return self._session.get_outputs()

    def io_binding(self) -> CudaBinding:
        return CudaBinding(self._double)

    def run_with_iobinding(self, iobinding: CudaBinding, run_options: Any = None) -> None:
        """Put one run on the stream, with what is bound now."""
        double = self._double
        if run_options is None or run_options.get_run_config_entry(NO_WAITING) != "1":
            double.violations.append("a run waited for the stream")
        code, status, *_ = driver.cuStreamGetCaptureInfo(self._stream)
        if code != driver.CUresult.CUDA_SUCCESS or status != driver.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_NONE:
            double.violations.append("a run inside a capture, where ONNX Runtime aborts")
            return
        inputs, outputs = dict(iobinding.inputs), dict(iobinding.outputs)
        for bound, writes in (*((b, False) for b in inputs.values()), *((b, True) for b in outputs.values())):
            nbytes = int(np.prod(bound.shape)) * bound.dtype.itemsize
            double.cuda.will_access(self._stream, bound.address, nbytes, writes=writes)
        double.submit(self._stream, lambda: self._compute(inputs, outputs))

    def _compute(self, inputs: dict[str, Bound], outputs: dict[str, Bound]) -> None:
        found = self._session.run(list(outputs), {name: self._view(bound) for name, bound in inputs.items()})
        for bound, values in zip(outputs.values(), found, strict=True):
            view = self._view(bound)
            if values.shape != view.shape or values.dtype != view.dtype:
                self._double.violations.append(f"{values.dtype}{values.shape} into {view.dtype}{view.shape}")
            else:
                view[...] = values
        self._double.runs += 1

    def _view(self, bound: Bound) -> Any:
        return self._double.cuda.view(bound.address, bound.shape, bound.dtype)


class CudaBinding:
    """What a session reads and writes."""

    def __init__(self, double: OnnxRuntimeCudaDouble) -> None:
        self._double = double
        self.inputs: dict[str, Bound] = {}
        self.outputs: dict[str, Bound] = {}

    def bind_input(
        self, name: str, device_type: str, device_id: int, element_type: Any, shape: Sequence[int], buffer_ptr: int
    ) -> None:
        self._bind(self.inputs, name, device_type, element_type, shape, buffer_ptr)

    def bind_output(
        self,
        name: str,
        device_type: str = "cpu",
        device_id: int = 0,
        element_type: Any = None,
        shape: Sequence[int] | None = None,
        buffer_ptr: int | None = None,
    ) -> None:
        assert shape is not None
        assert buffer_ptr is not None
        self._bind(self.outputs, name, device_type, element_type, shape, buffer_ptr)

    def _bind(
        self, into: dict[str, Bound], name: str, device: str, dtype: Any, shape: Sequence[int], address: int
    ) -> None:
        if device != "cuda":
            self._double.violations.append(f"{name} was bound as memory of {device}")
        into[name] = Bound(address, tuple(shape), np.dtype(dtype))


def _forbids_fallback(options: Any) -> bool:
    try:
        return bool(options.get_session_config_entry(NO_FALLBACK) == "1")
    except RuntimeError:  # there is no such entry
        return False
