"""TensorRT and TensorRT-RTX as targets: verified plans, execution contexts that share one arena, fixed addresses.

Plans are deserialised when the target is opened and stay, or, ``staged``, when their first context is made until their
last one is closed. Contexts share one arena and must not run at the same time; they all run on the device's one stream.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing, suppress
from mmap import ACCESS_READ, mmap
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from instantrt.bundle import Bundle
from instantrt.contracts import NetworkContract, symbols_of
from instantrt.device import Buffer, Stream
from instantrt.device.cuda import CudaDevice
from instantrt.device.properties import GpuProperties, open_gpu
from instantrt.engine import TargetOptions
from instantrt.engine.arena import Arena, LoadedEngines
from instantrt.engine.fit import choose
from instantrt.engine.flavours import Flavour
from instantrt.engine.kernels import SPECIALIZATION
from instantrt.engine.runtime_cache import RuntimeCache
from instantrt.engine.tensorrt_log import TensorRTLog, tensorrt_log
from instantrt.engine.tensorrt_weights import check_resident, refit, set_weight_budget
from instantrt.errors import DeviceError, EngineError
from instantrt.plan import Plan, PlanError, VerifiedFile, open_plan, plan_path
from instantrt.residency import Residency

if TYPE_CHECKING:
    import tensorrt as trt

OUT_OF_MEMORY = (
    "free device memory, load the bundle with residency auto (`--residency auto`), "
    "or build plans for fewer slots or smaller pictures"
)
BUILD_AGAIN = "build the plans again with `instantrt build --force`"
EXECUTION_FAILED = f"restart the process if the GPU failed before; otherwise {BUILD_AGAIN}"


class TensorRTTarget:
    """Runs a bundle's plans on one GPU.

    Args:
        flavour: TensorRT or TensorRT-RTX.
        bundle: where the plans are.
        options: ``device``, ``weight_budget_bytes``, ``residency``, and for TensorRT-RTX ``runtime_cache``.

    Raises:
        MissingExtraError: the flavour's wheels are not installed.
        WheelError: they do not work together.
        DeviceError: there is no such GPU, the flavour does not run on it, or it has too little free memory.
        RequestError: a weight budget or streaming without plans for it.
        PlanError: a plan is missing, altered, or made for something else.
        EngineError: TensorRT cannot load a plan.
    """

    def __init__(self, flavour: Flavour, bundle: Bundle, options: TargetOptions) -> None:
        options.check(flavour.target, flavour.options)
        gpu = GpuProperties.of(open_gpu(options.device or 0))
        if refusal := flavour.refusal(gpu):
            raise refusal
        self.name = flavour.target
        self._bundle = bundle
        self._module = flavour.load()
        self._log = tensorrt_log(self._module)
        self._plans = {name: open_plan(bundle, flavour.target, name) for name in bundle.manifest.networks}
        with ExitStack() as owned:
            self._files = {name: owned.enter_context(closing(VerifiedFile(p))) for name, p in self._plans.items()}
            self.device = owned.enter_context(closing(CudaDevice(options.device or 0)))
            for plan in self._plans.values():
                plan.check_host(self._module.__version__, gpu)
            choice = choose(options, self._plans.values(), bundle.precision, self.device.memory_bytes()[0])
            self.residency: Residency = choice.residency
            self.capturable = self.residency != "streaming"  # copying weights cannot be captured
            self.warnings: tuple[str, ...] = choice.warnings
            self._weight_budget_bytes = choice.weight_budget_bytes
            self._runtime = self._module.Runtime(self._log.logger)
            self._arena = owned.enter_context(closing(Arena(self.device)))
            self._engines = LoadedEngines(self._deserialized, lambda engine: engine.device_memory_size_v2, self._arena)
            owned.callback(self._engines.clear)
            if self.residency != "staged":
                for name in self._plans:
                    self._engines.take(name)
                    self._files[name].close()
                self._arena.memory()
            self._cache = (
                owned.enter_context(closing(self._runtime_cache(options))) if flavour.finishes_on_device else None
            )
            self._owned = owned.pop_all()

    def accepts(self, network: str, symbols: Mapping[str, int]) -> bool:
        """Whether a profile of the network's plan holds these symbols."""
        try:
            self._plans[network].profile(symbols)
        except PlanError:
            return False
        return True

    def load(self, network: str, symbols: Mapping[str, int]) -> TensorRTEngine:
        """An execution context of its own for ``network``.

        Raises:
            BundleError: the bundle has no such network.
            PlanError: no profile of the plan holds ``symbols``.
            EngineError: TensorRT cannot make the context.
        """
        if network not in self._plans:
            self._bundle.onnx(network)  # raises, with the command that adds it
        plan = self._plans[network]
        plan.profile(symbols)
        self.device.make_current()  # the caller's thread need not be the one that opened the target
        with ExitStack() as taken:
            engine = self._engines.take(network)
            taken.callback(self._engines.give_back, network)
            context = self._context(engine, network)
            if context is None:
                raise self._log.failure(f"TensorRT cannot make an execution context of {network}", OUT_OF_MEMORY)
            save = (lambda: None) if self._cache is None else self._cache.save
            release = taken.pop_all().close
        return TensorRTEngine(self._module, self._log, plan, engine, context, self.device, self._arena, save, release)

    def close(self) -> None:
        """Release arena, engines and device; may be called more than once. Contexts must be closed before."""
        self._owned.close()

    def _deserialized(self, network: str) -> trt.ICudaEngine:
        identity = self._plans[network].record.identity
        if identity.options.get("version_compatible"):
            self._runtime.engine_host_code_allowed = True  # the plan brings its own runtime; its digest was verified
        with mmap(self._files[network].verified().fileno(), 0, access=ACCESS_READ) as data:
            engine: trt.ICudaEngine | None = self._runtime.deserialize_cuda_engine(data)
        if engine is None:
            raise self._log.failure(f"TensorRT cannot load the plan of {network}", OUT_OF_MEMORY)
        if identity.options.get("strip_weights"):
            refit(self._module, self._log, engine, self._bundle.onnx(network))
        if self._weight_budget_bytes is not None and engine.streamable_weights_size > 0:
            set_weight_budget(engine, self._weight_budget_bytes, self._log, network)
        return engine

    def _runtime_cache(self, options: TargetOptions) -> RuntimeCache:
        folder = options.runtime_cache or plan_path(self._bundle.folder, self.name, "unet").parent
        return RuntimeCache(folder, self.device.properties.compute_capability)

    def _context(self, engine: Any, network: str) -> Any:
        """A context without memory of its own. ``engine`` is untyped here: this is where the flavours differ."""
        trt = self._module
        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if self._cache is None:
            return engine.create_execution_context(strategy)
        config = engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(strategy)
        strategies = trt.DynamicShapesKernelSpecializationStrategy
        config.dynamic_shapes_kernel_specialization_strategy = getattr(strategies, SPECIALIZATION[network])
        config.cuda_graph_strategy = trt.CudaGraphStrategy.DISABLED  # the step loop captures both networks at once
        self._cache.attach(config)
        return engine.create_execution_context(config)


class TensorRTEngine:
    """One execution context. Shapes and addresses are handed to TensorRT once, when they change."""

    def __init__(
        self,
        module: ModuleType,
        log: TensorRTLog,
        plan: Plan,
        engine: trt.ICudaEngine,
        context: trt.IExecutionContext,
        device: CudaDevice,
        arena: Arena,
        after_warm_up: Callable[[], None],
        after_close: Callable[[], None],
    ) -> None:
        self.contract: NetworkContract = plan.contract
        self.busy_ns = 0  # executing takes no time of the host beyond enqueueing
        self._plan = plan
        self._log = log
        self._context: trt.IExecutionContext | None = context
        self._device = device
        self._arena = arena
        self._after_warm_up, self._after_close = after_warm_up, after_close
        self._inputs = frozenset(spec.name for spec in plan.contract.inputs)
        specs = (*plan.contract.inputs, *plan.contract.outputs)
        self._dtypes = {s.name: np.dtype(module.nptype(engine.get_tensor_dtype(s.name))) for s in specs}
        self._bound: dict[str, Buffer] = {}
        self._given: dict[str, tuple[tuple[int, ...], int]] = {}  # shape and address that TensorRT knows
        self._ready = False
        self._arena_moves = -1  # how often the arena had moved when TensorRT was told of it

    def bind(self, name: str, buffer: Buffer) -> None:
        """Make ``buffer`` the input or output of that name."""
        if name not in self._dtypes:
            raise KeyError(f"{self.contract.name} has no input or output {name!r}")
        if buffer.dtype != self._dtypes[name]:
            raise EngineError(
                f"{name} of {self.contract.name} takes {self._dtypes[name]}",
                found=f"a buffer of {buffer.dtype}",
                hint=BUILD_AGAIN,
            )
        self._bound[name] = buffer
        self._ready = self._ready and self._given.get(name) == (buffer.shape, buffer.address)

    def warm_up(self, stream: Stream, *, capture: bool) -> None:
        """Execute once with the final shapes, which compiles what is compiled on the device, and keep that."""
        context: Any = self._live_context()
        if capture:
            check_resident(context.engine, self.contract.name)
        self.enqueue(stream)
        # Only TensorRT-RTX can tell.
        if capture and hasattr(context, "is_stream_capturable") and not context.is_stream_capturable(stream.handle):
            raise self._log.failure(
                f"TensorRT cannot capture {self.contract.name} in a CUDA graph",
                "load the bundle with eager=True (`--eager`), which launches every step anew",
            )
        self._after_warm_up()

    def enqueue(self, stream: Stream) -> None:
        """Put one execution on the stream."""
        context = self._live_context()
        self._device.make_current()
        if not self._ready or self._arena_moves != self._arena.moves:
            self._hand_over(context, stream)
        if not context.execute_async_v3(stream.handle):
            raise self._log.failure(f"TensorRT cannot execute {self.contract.name}", EXECUTION_FAILED)

    def close(self) -> None:
        """Wait for executions under way and release the context; may be called more than once."""
        if self._context is None:
            return
        with suppress(DeviceError):  # what failed was or will be raised where results are read
            self._device.synchronize()
        self._context = None
        self._bound.clear()
        self._after_close()

    def _live_context(self) -> trt.IExecutionContext:
        if self._context is None:
            raise RuntimeError(f"the engine of {self.contract.name} is closed")
        return self._context

    def _hand_over(self, context: trt.IExecutionContext, stream: Stream) -> None:
        missing = [name for name in self._dtypes if name not in self._bound]
        if missing:
            raise RuntimeError(f"{self.contract.name} has nothing bound to {', '.join(missing)}")
        self._choose_profile(context, stream)
        for name, buffer in self._bound.items():
            self._give(context, name, buffer)
        with self._log.refusing(f"TensorRT cannot work out the shapes of {self.contract.name}", BUILD_AGAIN):
            unknown = context.infer_shapes()
        if unknown:
            raise self._log.failure(
                f"TensorRT lacks the shapes of {', '.join(unknown)} of {self.contract.name}", BUILD_AGAIN
            )
        for spec in self.contract.outputs:
            dims: Any = context.get_tensor_shape(spec.name)  # iterable, which the stubs do not say
            shape, expected = tuple(dims), self._bound[spec.name].shape
            if shape != expected:
                raise EngineError(
                    f"{spec.name} of {self.contract.name} does not fit its buffer",
                    found=f"{list(shape)} for a buffer of {list(expected)}",
                    hint=BUILD_AGAIN,
                )
        self._ready = True

    def _choose_profile(self, context: trt.IExecutionContext, stream: Stream) -> None:
        shapes = {name: buffer.shape for name, buffer in self._bound.items() if name in self._inputs}
        profile = self._plan.profile(symbols_of(self.contract, shapes))
        if self._given and profile == context.active_optimization_profile and self._arena_moves == self._arena.moves:
            return
        if profile != context.active_optimization_profile:
            with self._log.refusing(f"TensorRT cannot switch {self.contract.name} to profile {profile}", BUILD_AGAIN):
                context.set_optimization_profile_async(profile, stream.handle)
            self._given.clear()  # TensorRT forgets the shapes
        context.set_device_memory(*self._arena.memory())
        self._arena_moves = self._arena.moves

    def _give(self, context: trt.IExecutionContext, name: str, buffer: Buffer) -> None:
        shape, address = buffer.shape, buffer.address
        given_shape, given_address = self._given.get(name, (None, None))
        accepted = True
        if name in self._inputs and shape != given_shape:
            accepted = context.set_input_shape(name, shape)
        if address != given_address:
            accepted = accepted and context.set_tensor_address(name, address)
        if not accepted:
            what = f"TensorRT refuses {list(shape)} at {address:#x} as {name} of {self.contract.name}"
            raise self._log.failure(what, BUILD_AGAIN)
        self._given[name] = (shape, address)
