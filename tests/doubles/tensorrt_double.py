"""Doubles of what TensorRT does at run time, for machines without a GPU, above the stand-in driver.

Only Runtime, ICudaEngine, IExecutionContext, the runtime configuration and cache, and the refitters are replaced; the
rest of the module (data types, dimensions, logger, enumerations) is the real one, and so are the plan files: a plan is
known by its digest, and its arithmetic is done by running the ONNX graph that it was built from in ONNX Runtime, inside
a host function on the caller's stream. So executions are ordered, captured and replayed as a GPU's would be.

The rules are those of TensorRT's public documentation. As TensorRT does, a double answers None or False, or raises
RuntimeError where the bindings do, and puts the reason into the logger. What TensorRT leaves undefined is collected in
:attr:`TensorRTDouble.violations`.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from math import prod
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
from cuda.bindings import driver

from doubles.cuda_double import CudaDouble
from instantrt.bundle import Bundle
from instantrt.contracts import resolve_dim
from instantrt.denoise import LOOP_NETWORKS
from instantrt.plan import PlanRecord, plan_path, read_record

DATACENTER_VERSION = "11.3.0.1"
ONLY_RTX = {"ICudaEngine": ("create_runtime_config",), "IExecutionContext": ("is_stream_capturable",)}
ENDS_BYTES = 1 << 16  # of a plan, by which it is known
ALIGNMENT = 256  # bytes, of everything that TensorRT is given an address of


@dataclass(frozen=True)
class Tensor:
    """One input or output of a plan; free axes are -1."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    is_input: bool


@dataclass(frozen=True)
class Source:
    """What a plan was built from.

    Args:
        onnx: the graph.
        record: the identity beside the plan.
        extents: per profile and input, its (min, opt, max) shapes.
    """

    onnx: Path
    record: PlanRecord
    extents: tuple[dict[str, tuple[tuple[int, ...], ...]], ...]

    @property
    def network(self) -> str:
        """The network's name."""
        return self.record.identity.network

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Inputs, then outputs, as the ONNX graph declares them."""
        graph = onnx.load(self.onnx, load_external_data=False).graph
        return {
            t.name: t for t in (*(_tensor(i, True) for i in graph.input), *(_tensor(o, False) for o in graph.output))
        }

    @cached_property
    def axes(self) -> dict[str, list[str]]:
        """The names of the inputs' axes, "" for a fixed one."""
        graph = onnx.load(self.onnx, load_external_data=False).graph
        return {value.name: [dim.dim_param for dim in value.type.tensor_type.shape.dim] for value in graph.input}

    def session(self, shapes: Mapping[str, tuple[int, ...]] | None) -> onnxruntime.InferenceSession:
        """What does the plan's arithmetic, for inputs of any shape or specialised to these."""
        fixed = {
            name: size
            for tensor, axes in self.axes.items()
            for name, size in zip(axes, shapes[tensor] if shapes else (), strict=bool(shapes))
            if name
        }
        key = (self.onnx, *fixed.items())
        if key not in _sessions:
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 3
            options.intra_op_num_threads = 1
            for name, size in fixed.items():
                options.add_free_dimension_override_by_name(name, size)
            _sessions[key] = onnxruntime.InferenceSession(str(self.onnx), options, providers=["CPUExecutionProvider"])
        return _sessions[key]


@dataclass
class Execution:
    """One call of ``execute_async_v3``: what it will read and write when the stream gets there."""

    context: weakref.ref[Any]
    network: str
    source: Source
    version: int  # of the context's shapes and addresses
    shapes: dict[str, tuple[int, ...]]
    addresses: dict[str, int]
    captured: bool
    specialised: bool  # to its shapes


_sessions: dict[tuple[Any, ...], onnxruntime.InferenceSession] = {}


def fingerprint(plan: Any) -> str:
    """Tells plans apart by their size and their ends: whole digests, which the runtime checks, take their time."""
    return f"{len(plan)} {hashlib.sha256(plan[:ENDS_BYTES] + plan[-ENDS_BYTES:]).hexdigest()}"


@dataclass
class TensorRTDouble:
    """The state behind one doubled module.

    Args:
        base: the real module.
        cuda: the stand-in driver.
        datacenter: play TensorRT proper and not TensorRT-RTX: another version, and nothing that only the latter has.
        compiles: as TensorRT-RTX does, contexts compile kernels, lazily unless their configuration says otherwise.
        no_ops: networks whose executions cost nothing and write nothing, to measure the host.
    """

    base: ModuleType
    cuda: CudaDouble
    datacenter: bool = False
    compiles: bool = True
    no_ops: frozenset[str] = frozenset()
    sources: dict[str, Source] = field(default_factory=dict)  # by :func:`fingerprint` of the plan
    violations: list[str] = field(default_factory=list)
    executed: list[str] = field(default_factory=list)  # networks whose arithmetic ran, in order
    deserialized: list[str] = field(default_factory=list)  # networks whose plans were loaded, in order
    compiled: list[str] = field(default_factory=list)  # networks for which kernels had to be compiled
    kernels: list[tuple[str, str]] = field(default_factory=list)  # put on a stream: network, "general" or "specialised"
    not_capturable: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)  # methods of contexts that shall fail
    environment: str = "this machine"  # a runtime cache of another one is refused
    _pending: dict[int, Execution] = field(default_factory=dict)
    _keys: Iterator[int] = field(default_factory=lambda: count(1))

    def __post_init__(self) -> None:
        self._callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self._run)
        self._no_op = ctypes.CDLL(None).abs  # takes a number, returns it
        self.compiles = self.compiles and not self.datacenter
        self.module = doubled_module(self)

    @property
    def sources_by_network(self) -> dict[str, Source]:
        """What the double knows, by network; the latest of several."""
        return {source.network: source for source in self.sources.values()}

    def know(self, bundle: Bundle, target: str) -> None:
        """Learn the plans of a bundle, from the files that describe them."""
        for path in sorted((bundle.folder / "plans" / target).glob("*.json")):
            record = read_record(bundle.folder, target, path.stem)
            contract = bundle.contracts[record.identity.network]
            extents = tuple(
                {
                    spec.name: tuple(spec.resolve({s: e[i] for s, e in profile.items()}) for i in range(3))
                    for spec in contract.inputs
                }
                for profile in record.identity.profiles
            )
            plan = plan_path(bundle.folder, target, path.stem).read_bytes()
            self.sources[fingerprint(plan)] = Source(bundle.onnx(record.identity.network), record, extents)

    def launch(
        self, execution: Execution, stream: int, reads: list[tuple[int, int]], writes: list[tuple[int, int]]
    ) -> str:
        """Put an execution on a stream; the name of the driver's error, or nothing."""
        for address, nbytes in reads:
            self.cuda.will_access(stream, address, nbytes, writes=False)
        for address, nbytes in writes:
            self.cuda.will_access(stream, address, nbytes, writes=True)
        key = next(self._keys)
        computes = execution.network not in self.no_ops
        function = self._callback if computes else self._no_op
        if computes:
            self._pending[key] = execution
        entry = driver.CUhostFn(ctypes.cast(function, ctypes.c_void_p).value)
        (code,) = driver.cuLaunchHostFunc(stream, entry, key)
        if code == driver.CUresult.CUDA_SUCCESS:
            return ""
        self._pending.pop(key, None)
        return str(code.name)

    def forget(self, context: object) -> None:
        """A context is gone: graphs that captured it must not run any more."""
        for key, execution in list(self._pending.items()):
            if execution.context() in (context, None):
                if not execution.captured:
                    self.violations.append(f"the context of {execution.network} was destroyed before it had executed")
                del self._pending[key]

    def _run(self, key: int) -> None:
        try:
            execution = self._pending.get(key)
            if execution is None:
                self.violations.append("a graph ran after the execution context that it had captured was destroyed")
                return
            if not execution.captured:
                del self._pending[key]
            self._compute(execution)
        except Exception as error:  # must not escape into the driver's thread
            self.violations.append(f"{type(error).__name__}: {error}")

    def _compute(self, execution: Execution) -> None:
        context = execution.context()
        if execution.captured and (context is None or context.version != execution.version):
            self.violations.append(f"shapes or addresses of {execution.network} changed after it was captured")
        views = {
            name: self.cuda.view(address, execution.shapes[name], execution.source.tensors[name].dtype)
            for name, address in execution.addresses.items()
        }
        outputs = [t.name for t in execution.source.tensors.values() if not t.is_input]
        feeds = {t.name: views[t.name] for t in execution.source.tensors.values() if t.is_input}
        session = execution.source.session(execution.shapes if execution.specialised else None)
        for name, value in zip(outputs, session.run(outputs, feeds), strict=True):
            np.copyto(views[name], value)
        self.executed.append(execution.network)


def _tensor(value: Any, is_input: bool) -> Tensor:
    kind = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
    return Tensor(
        value.name, dtype, tuple(d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim), is_input
    )


def doubled_module(double: TensorRTDouble) -> ModuleType:
    """A module with the doubles in front and the real module behind."""
    trt: Any = double.base

    class Runtime:
        """Deserialises plans that the double knows."""

        def __init__(self, logger: Any) -> None:
            self.logger = logger
            self.engine_host_code_allowed = False

        def deserialize_cuda_engine(self, serialized_engine: Any) -> ICudaEngine | None:
            source = double.sources.get(fingerprint(serialized_engine))
            if source is None:
                return self._refuse("the plan is not one of this version, or is damaged")
            if not _has_context():
                return self._refuse("no CUDA context is current")
            if source.record.identity.options.get("version_compatible") and not self.engine_host_code_allowed:
                return self._refuse("the plan holds host code, which was not allowed")
            engine = ICudaEngine(source, self.logger)
            if not engine._load_weights():
                return self._refuse("out of memory for the weights")
            double.deserialized.append(source.network)
            return engine

        def _refuse(self, why: str) -> None:
            self.logger.log(trt.ILogger.ERROR, f"double: {why}")

    class ICudaEngine:
        """One deserialised plan."""

        def __init__(self, source: Source, logger: Any) -> None:
            self._source = source
            self._logger = logger
            self._contexts: weakref.WeakSet[IExecutionContext] = weakref.WeakSet()
            self._budget = self.streamable_weights_size
            self._refitted = not source.record.identity.options.get("strip_weights", False)
            self._weights: int | None = None

        def __del__(self) -> None:
            self._free_weights()

        def _load_weights(self) -> bool:
            """Take as much device memory as the weights do that are not streamed."""
            self._free_weights()
            nbytes = (self._source.record.weight_bytes or 0) - self.streamable_weights_size + self._budget
            code, address = driver.cuMemAlloc(max(nbytes, 1))
            self._weights = int(address) if code == driver.CUresult.CUDA_SUCCESS else None
            return self._weights is not None

        def _free_weights(self) -> None:
            if self._weights is not None:
                driver.cuMemFree(self._weights)
                self._weights = None

        @property
        def num_io_tensors(self) -> int:
            return len(self._source.tensors)

        @property
        def num_optimization_profiles(self) -> int:
            return len(self._source.extents)

        @property
        def device_memory_size_v2(self) -> int:
            return max(self._source.record.activation_bytes, default=0)

        @property
        def refittable(self) -> bool:
            return bool(self._source.record.identity.options.get("strip_weights", False))

        @property
        def streamable_weights_size(self) -> int:
            streams = self._source.record.identity.options.get("weight_streaming", False)
            return (self._source.record.weight_bytes or 0) if streams else 0

        @property
        def weight_streaming_budget_v2(self) -> int:
            return self._budget

        @weight_streaming_budget_v2.setter
        def weight_streaming_budget_v2(self, value: int) -> None:
            if len(self._contexts):
                self._log("the weight streaming budget cannot change while there are execution contexts")
            elif 0 <= value <= self.streamable_weights_size:
                before, self._budget = self._budget, value
                if not self._load_weights():
                    self._budget = before

        def get_tensor_name(self, index: int) -> str:
            return list(self._source.tensors)[index]

        def get_tensor_dtype(self, name: str) -> Any:
            return _trt_dtype(trt, self._source.tensors[name].dtype)

        def get_tensor_shape(self, name: str) -> Any:
            return trt.Dims(self._source.tensors[name].shape)

        def get_tensor_mode(self, name: str) -> Any:
            tensor = self._source.tensors.get(name)
            mode = trt.TensorIOMode
            return mode.NONE if tensor is None else mode.INPUT if tensor.is_input else mode.OUTPUT

        def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Any]:
            return [trt.Dims(shape) for shape in self._source.extents[profile_index][name]]

        def create_runtime_config(self) -> IRuntimeConfig:
            return IRuntimeConfig()

        def create_execution_context(self, *how: Any) -> IExecutionContext | None:
            """Takes an allocation strategy or, as TensorRT-RTX does, a runtime configuration."""
            if not _has_context():
                return self._log("no CUDA context is current")
            config = how[0] if how and isinstance(how[0], IRuntimeConfig) else IRuntimeConfig()
            if how and config is not how[0]:
                config.set_execution_context_allocation_strategy(how[0])
            if (
                config.get_execution_context_allocation_strategy()
                != trt.ExecutionContextAllocationStrategy.USER_MANAGED
            ):
                # Would allocate with the CUDA runtime, which the stand-in driver is not for.
                return self._log("this double has only contexts whose memory is user-managed")
            context = IExecutionContext(self, config)
            self._contexts.add(context)
            return context

        def _log(self, why: str) -> None:
            self._logger.log(trt.ILogger.ERROR, f"double: {why}")

    class IExecutionContext:
        """Shapes, addresses and memory of one use of an engine."""

        def __init__(self, engine: ICudaEngine, config: IRuntimeConfig) -> None:
            self.engine = engine
            self.active_optimization_profile = 0
            self.version = 0
            self._config = config
            self._shapes: dict[str, tuple[int, ...]] = {}
            self._addresses: dict[str, int] = {}
            self._memory: tuple[int, int] | None = None
            self._warmed_up: set[tuple[tuple[int, ...], ...]] = set()
            self._compiled: set[str] = set()

        def __del__(self) -> None:
            double.forget(self)

        def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
            exists = 0 <= profile_index < self.engine.num_optimization_profiles
            if not exists or "set_optimization_profile_async" in double.refused:
                self._no(f"profile {profile_index} cannot be set")
                raise RuntimeError("Error in set optimization profile async.")
            self.active_optimization_profile = profile_index
            self._shapes.clear()
            self._changed()
            return True

        def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
            tensor, shape = self.engine._source.tensors.get(name), tuple(shape)
            if tensor is None or not tensor.is_input:
                return self._no(f"there is no input {name!r}")
            low, _, high = self.engine._source.extents[self.active_optimization_profile][name]
            if len(shape) != len(low) or any(not a <= s <= b for a, s, b in zip(low, shape, high, strict=True)):
                return self._no(
                    f"{name} {shape} is outside profile {self.active_optimization_profile}: {low} to {high}"
                )
            self._shapes[name] = shape
            self._changed()
            return True

        def set_tensor_address(self, name: str, memory: int) -> bool:
            if name not in self.engine._source.tensors:
                return self._no(f"there is no input or output {name!r}")
            if memory % ALIGNMENT:
                return self._no(f"the address of {name} is not aligned to {ALIGNMENT} bytes")
            self._addresses[name] = memory
            self._changed()
            return True

        def get_tensor_address(self, name: str) -> int:
            return self._addresses.get(name, 0)

        def set_device_memory(self, memory: int, size: int) -> None:
            if memory % ALIGNMENT or size < self.engine.device_memory_size_v2:
                raise RuntimeError(f"double: {size} bytes at {memory:#x} do not do")
            self._memory = (memory, size)
            self._changed()

        def infer_shapes(self) -> list[str]:
            if "infer_shapes" in double.refused:
                self._no("a shape depends on what is not known")
                raise RuntimeError("infer_shapes error code: -1")
            free = (t.name for t in self.engine._source.tensors.values() if t.is_input and -1 in t.shape)
            return [name for name in free if name not in self._shapes]

        def get_tensor_shape(self, name: str) -> Any:
            tensor = self.engine._source.tensors[name]
            return trt.Dims(self._resolved()[name] if not self.infer_shapes() else tensor.shape)

        def is_stream_capturable(self, stream: int) -> bool:
            return self.engine._source.network not in double.not_capturable

        def execute_async_v3(self, stream_handle: int) -> bool:
            source = self.engine._source
            if not _has_context():
                return self._no("no CUDA context is current")
            if not self.engine._refitted:
                return self._no(f"{source.network} has no weights: it was stripped of them and not refitted")
            if missing := self.infer_shapes():
                return self._no(f"the shape of {', '.join(missing)} is not set")
            if unset := [name for name in source.tensors if not self._addresses.get(name)]:
                return self._no(f"the address of {', '.join(unset)} is not set")
            if self._memory is None:
                return self._no("no device memory was set, and the context has none of its own")
            shapes = self._resolved()
            captured = _is_capturing(stream_handle)
            if captured and self.engine.weight_streaming_budget_v2 < self.engine.streamable_weights_size:
                return self._no("streaming weights waits, which is not permitted while the stream is capturing")
            kernels = self._kernels(shapes, captured)
            if kernels is None:
                return self._no("kernels of this shape are not compiled, and cannot be during a capture")
            double.kernels.append((source.network, kernels))
            sizes = {n: prod(shapes[n]) * t.dtype.itemsize for n, t in source.tensors.items()}
            reads = [(self._addresses[n], sizes[n]) for n, t in source.tensors.items() if t.is_input]
            writes = [(self._addresses[n], sizes[n]) for n, t in source.tensors.items() if not t.is_input]
            writes.append(self._memory)
            execution = Execution(
                context=weakref.ref(self),
                network=source.network,
                source=source,
                version=self.version,
                shapes=shapes,
                addresses=dict(self._addresses),
                captured=captured,
                specialised=source.network in LOOP_NETWORKS,  # as on the CPU, whichever kernels a GPU would take
            )
            error = double.launch(execution, stream_handle, reads, writes)
            return not error or self._no(f"{source.network} cannot be put on the stream: {error}")

        def _kernels(self, shapes: Mapping[str, tuple[int, ...]], captured: bool) -> str | None:
            """Which kernels execute these shapes; None if they would have to be compiled during a capture.

            TensorRT-RTX compiles a shape's own kernels before its first execution (EAGER), meanwhile (LAZY), or never.
            """
            strategy = self._config.dynamic_shapes_kernel_specialization_strategy
            key = tuple(shapes[t.name] for t in self.engine._source.tensors.values() if t.is_input)
            is_known = key in self._warmed_up
            if captured and (not is_known or (double.compiles and strategy == SPECIALIZATION.LAZY)):
                return None
            if double.compiles and strategy != SPECIALIZATION.EAGER:
                self._compile("general")
            if double.compiles and strategy != SPECIALIZATION.NONE:
                self._compile(key)
            self._warmed_up.add(key)
            general = strategy == SPECIALIZATION.NONE or (strategy == SPECIALIZATION.LAZY and not is_known)
            return "general" if double.compiles and general else "specialised"

        def _compile(self, key: object) -> None:
            """Unless these kernels are in the cache."""
            cache = self._config.get_runtime_cache()
            name = json.dumps([self.engine._source.record.file.sha256, key])
            if name not in (self._compiled if cache is None else cache.kernels):
                double.compiled.append(self.engine._source.network)
                (self._compiled if cache is None else cache.kernels).add(name)

        def _resolved(self) -> dict[str, tuple[int, ...]]:
            return _output_shapes(self.engine._source, self._shapes)

        def _changed(self) -> None:
            self.version += 1

        def _no(self, why: str) -> bool:
            self.engine._log(why)
            return False

    class IRuntimeConfig:
        """How a context is made."""

        def __init__(self) -> None:
            self._strategy = trt.ExecutionContextAllocationStrategy.STATIC
            self._cache: IRuntimeCache | None = None
            self.dynamic_shapes_kernel_specialization_strategy = SPECIALIZATION.LAZY
            self.cuda_graph_strategy = trt.CudaGraphStrategy.DISABLED

        def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
            self._strategy = strategy

        def get_execution_context_allocation_strategy(self) -> Any:
            return self._strategy

        def create_runtime_cache(self) -> IRuntimeCache:
            return IRuntimeCache()

        def set_runtime_cache(self, cache: IRuntimeCache) -> bool:
            self._cache = cache
            return True

        def get_runtime_cache(self) -> IRuntimeCache | None:
            return self._cache

    class IRuntimeCache:
        """Names of compiled kernels, and the machine that they are for."""

        def __init__(self) -> None:
            self.kernels: set[str] = set()

        def serialize(self) -> bytes:
            return json.dumps({"environment": double.environment, "kernels": sorted(self.kernels)}).encode()

        def deserialize(self, blob: Any) -> bool:
            try:
                data = json.loads(bytes(blob))
            except ValueError:
                return False
            if data["environment"] != double.environment:
                return False
            self.kernels |= set(data["kernels"])
            return True

        def reset(self) -> bool:
            self.kernels.clear()
            return True

    class Refitter:
        """Gives a stripped engine its weights."""

        def __init__(self, engine: ICudaEngine, logger: Any) -> None:
            self._engine = engine
            self._weights: str | None = None

        def get_missing_weights(self) -> list[str]:
            return [] if self._weights else ["weights"]

        def refit_cuda_engine(self) -> bool:
            self._engine._refitted = self._weights is not None
            return self._engine._refitted

    class OnnxParserRefitter:
        """Takes the weights from an ONNX file, which must be the one that the plan was built from."""

        def __init__(self, refitter: Refitter, logger: Any) -> None:
            self._refitter = refitter
            self.num_errors = 0

        def refit_from_file(self, model: str) -> bool:
            if Path(model) != self._refitter._engine._source.onnx:
                self.num_errors = 1
                return False
            self._refitter._weights = model
            return True

        def get_error(self, index: int) -> Any:
            return SimpleNamespace(desc=lambda: "another model's weights")

    SPECIALIZATION = trt.DynamicShapesKernelSpecializationStrategy
    replaced: tuple[type, ...] = (
        Runtime,
        ICudaEngine,
        IExecutionContext,
        IRuntimeConfig,
        IRuntimeCache,
        Refitter,
        OnnxParserRefitter,
    )

    class Doubled(ModuleType):
        def __getattr__(self, name: str) -> Any:
            return getattr(trt, name)

    module = Doubled(trt.__name__)
    for cls in replaced:
        for name in ONLY_RTX.get(cls.__name__, ()) if double.datacenter else ():
            delattr(cls, name)
        setattr(module, cls.__name__, cls)
    if double.datacenter:
        module.__version__ = DATACENTER_VERSION  # type: ignore[attr-defined]
    module.doubled = replaced  # type: ignore[attr-defined]
    return module


def _trt_dtype(trt: Any, dtype: np.dtype[Any]) -> Any:
    names = {
        "float32": "FLOAT",
        "float16": "HALF",
        "int32": "INT32",
        "int64": "INT64",
        "uint8": "UINT8",
        "bool": "BOOL",
    }
    return getattr(trt.DataType, names[dtype.name])


def _has_context() -> bool:
    """Whether a GPU is current in this thread, as all of TensorRT's calls that use one need it."""
    return bool(driver.cuCtxGetDevice()[0] == driver.CUresult.CUDA_SUCCESS)


def _is_capturing(stream: int) -> bool:
    code, status = driver.cuStreamIsCapturing(stream)
    return (
        code == driver.CUresult.CUDA_SUCCESS and status == driver.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_ACTIVE
    )


_known_shapes: dict[tuple[Any, ...], dict[str, tuple[int, ...]]] = {}


def _output_shapes(source: Source, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """All shapes of a plan, the outputs' by ONNX shape inference."""
    fixed = {t.name: shapes.get(t.name, t.shape) for t in source.tensors.values() if t.is_input}
    key = (source.onnx, *fixed.items())
    if key not in _known_shapes:
        _known_shapes[key] = fixed | _inferred(source, fixed)
    return _known_shapes[key]


def _inferred(source: Source, inputs: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Declared output shapes, their named axes ("B", "H/8") computed from what the inputs make of these names."""
    graph = onnx.load(source.onnx, load_external_data=False).graph
    symbols: dict[str, int] = {}
    for value in graph.input:
        for dim, size in zip(value.type.tensor_type.shape.dim, inputs[value.name], strict=True):
            symbol, _, divisor = dim.dim_param.partition("/")
            symbols[symbol] = size * int(divisor or 1)
    return {
        value.name: tuple(
            dim.dim_value if dim.HasField("dim_value") else resolve_dim(dim.dim_param, symbols)
            for dim in value.type.tensor_type.shape.dim
        )
        for value in graph.output
    }


@contextmanager
def installed(double: TensorRTDouble, name: str, modules: dict[str, Any]) -> Iterator[None]:
    """Put the doubled module in the place of the real one."""
    real = modules.get(name)
    modules[name] = double.module
    try:
        yield
    finally:
        if real is None:
            del modules[name]
        else:
            modules[name] = real
