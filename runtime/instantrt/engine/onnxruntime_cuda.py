"""ONNX Runtime's CUDA provider as a target: rewritten graphs on any NVIDIA GPU that CUDA 13 runs on.

Graphs are bound to our buffers by device pointer and run on our stream; nothing is waited for. ONNX Runtime allocates
while it runs, which no foreign capture allows, so loops of this target run eagerly.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, closing, suppress
from typing import Any

from instantrt.bundle import Bundle
from instantrt.device import Stream
from instantrt.device.cuda import CudaDevice
from instantrt.engine import ONNXRUNTIME_CUDA, TargetOptions
from instantrt.engine.flavours import numbers
from instantrt.engine.onnxruntime import (
    CUDA_OPTIONS,
    ExportedRanges,
    OnnxRuntimeEngine,
    Place,
    fix_axes,
    loading_error,
    session_options,
)
from instantrt.errors import DeviceError, EngineError, MissingExtraError, WheelError
from instantrt.plan import Plan, open_plan
from instantrt.residency import Residency

PROVIDER = "CUDAExecutionProvider"
TOO_FEW = "free device memory, or ask for fewer samples or smaller pictures"


def import_onnxruntime_gpu() -> Any:
    """The onnxruntime module, if it is the one that has CUDA kernels.

    Raises:
        MissingExtraError: it is not installed.
        WheelError: it is not the one of onnxruntime-gpu.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError(f"Running on {ONNXRUNTIME_CUDA}", "cuda", str(error)) from error
    providers = onnxruntime.get_available_providers()
    if PROVIDER not in providers:
        raise WheelError(
            "the installed onnxruntime has no CUDA kernels",
            found=f"onnxruntime {onnxruntime.__version__} with {', '.join(providers)}",
            hint="onnxruntime and onnxruntime-gpu overwrite each other's files: `pip uninstall onnxruntime "
            'onnxruntime-gpu`, then `pip install "instantrt[cuda]"`, in an environment without the extras cpu, build '
            "and export",
        )
    return onnxruntime


class OnnxRuntimeCudaTarget:
    """Runs a bundle's rewritten graphs on one GPU.

    Args:
        bundle: where the graphs are; `instantrt build --target onnxruntime-cuda` makes them.
        options: ``device``.

    Raises:
        MissingExtraError: the packages are not installed.
        WheelError: an onnxruntime without CUDA kernels is installed, or an older one than the graphs were made for.
        DeviceError: there is no such GPU.
        PlanError: a graph is missing, altered, or made for another bundle.
    """

    name = ONNXRUNTIME_CUDA
    options = CUDA_OPTIONS
    capturable = False
    residency: Residency = "resident"

    def __init__(self, bundle: Bundle, options: TargetOptions) -> None:
        options.check(self.name, self.options)
        self.warnings: tuple[str, ...] = ()
        self._bundle, self._ranges = bundle, ExportedRanges(bundle)
        self._ort = import_onnxruntime_gpu()
        self._plans = {name: open_plan(bundle, self.name, name) for name in bundle.manifest.networks}
        for plan in self._plans.values():
            _check_version(plan, self._ort.__version__)
        with ExitStack() as owned:
            self.device = owned.enter_context(closing(CudaDevice(options.device or 0)))
            self._place = Place("cuda", self.device.ordinal, self._run_options())
            self._owned = owned.pop_all()

    def accepts(self, network: str, symbols: Mapping[str, int]) -> bool:
        """Whether the bundle's graphs were exported for so many slots and guidance batch."""
        return self._ranges.accept(network, symbols)

    def load(self, network: str, symbols: Mapping[str, int]) -> OnnxRuntimeCudaEngine:
        """A session for ``network``; axes of the named symbols become constants.

        Raises:
            BundleError: the bundle has no such network, or ONNX Runtime cannot load its graph.
            RequestError: more or fewer slots or guidance batch than the bundle was exported for.
        """
        self._ranges.check(network, symbols)
        onnx_path = self._bundle.onnx(network)  # verified, and its weights with it
        plan = self._plans[network]
        options = session_options(self._ort)
        fix_axes(options, plan.contract, symbols)
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(onnx_path.parent))
        if symbols:
            # With every axis known no shape is left to be computed, which ONNX Runtime does on the CPU; so nothing may
            # be: a tensor would be waited for in every call.
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        with plan.open_verified() as file:
            graph = file.read()
        try:
            session = self._ort.InferenceSession(
                graph, options, providers=[PROVIDER], provider_options=[self._provider_options()]
            )
        except Exception as error:  # onnxruntime's errors share no public base class
            raise loading_error(onnx_path, error) from error
        return OnnxRuntimeCudaEngine(plan.contract, session, self._place, self.device)

    def close(self) -> None:
        """Release the device; may be called more than once. Engines must be closed before."""
        self._owned.close()

    def _provider_options(self) -> dict[str, str]:
        return {
            "device_id": str(self.device.ordinal),
            "user_compute_stream": str(self.device.stream.handle),
            "use_tf32": "0",  # what is fp32 is so for its digits
            "arena_extend_strategy": "kSameAsRequested",  # by powers of two it would take up to twice what it needs
        }

    def _run_options(self) -> Any:
        options = self._ort.RunOptions()
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        return options


class OnnxRuntimeCudaEngine(OnnxRuntimeEngine):
    """One session whose runs put their kernels on the device's stream."""

    def __init__(self, contract: Any, session: Any, place: Place, device: CudaDevice) -> None:
        super().__init__(contract, session, place)
        self._device = device

    def warm_up(self, stream: Stream, *, capture: bool) -> None:
        """Run once: ONNX Runtime chooses convolution algorithms and takes its memory then.

        Raises:
            EngineError: it is to be captured, which it cannot be.
        """
        if capture:
            raise EngineError(
                f"ONNX Runtime cannot be captured in a CUDA graph: {self.contract.name}",
                found="a capture on the way",
                hint="load the bundle with eager=True (`--eager`)",
            )
        self.enqueue(stream)

    def enqueue(self, stream: Stream) -> None:
        """Put one execution on the stream.

        Raises:
            EngineError: ONNX Runtime cannot run it.
        """
        if stream is not self._device.stream:
            raise ValueError("a session runs on the stream of the device that it was made for")
        try:
            self._run()
        except Exception as error:  # onnxruntime's errors share no public base class
            raise EngineError(
                f"ONNX Runtime cannot execute {self.contract.name}", found=str(error), hint=TOO_FEW
            ) from error

    def close(self) -> None:
        """Wait for executions under way and drop the session; may be called more than once."""
        if self._session is None:
            return
        with suppress(DeviceError):  # what failed was or will be raised where results are read
            self._device.synchronize()
        super().close()


def _check_version(plan: Plan, installed: str) -> None:
    needed = plan.record.identity.target_version
    if numbers(installed)[:2] < numbers(needed)[:2]:
        raise WheelError(
            "the installed onnxruntime-gpu is older than the one whose kernels the graphs were made for",
            found=f"{installed}, needed {needed} or later",
            hint='pip install --upgrade "instantrt[cuda]"',
        )
