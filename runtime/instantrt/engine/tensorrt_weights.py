"""Weights that are not simply in the plan: refitted from the ONNX file, or streamed from host memory."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from instantrt.engine.tensorrt_log import TensorRTLog
from instantrt.errors import EngineError

if TYPE_CHECKING:
    import tensorrt as trt


REFIT_FAILED = "export the bundle and build its plans again: `instantrt export`, then `instantrt build --strip-weights`"
BUDGET_REFUSED = "give another `--weight-budget`, or load the bundle without one"


def refit(module: ModuleType, log: TensorRTLog, engine: trt.ICudaEngine, onnx: Path) -> None:
    """Give a weight-stripped engine the weights of the ONNX file that it was built from.

    Raises:
        EngineError: TensorRT cannot refit, or weights are missing afterwards.
    """
    refitter = module.Refitter(engine, log.logger)
    parser = module.OnnxParserRefitter(refitter, log.logger)
    what = f"TensorRT cannot refit the plan from {onnx.name}"
    if not parser.refit_from_file(str(onnx)):
        said = [parser.get_error(i).desc() for i in range(parser.num_errors)]
        raise log.failure(f"{what}: {'; '.join(said)}" if said else what, REFIT_FAILED)
    missing = refitter.get_missing_weights()
    if missing:
        raise log.failure(f"{what}: it lacks {', '.join(missing)}", REFIT_FAILED)
    if not refitter.refit_cuda_engine():
        raise log.failure(what, REFIT_FAILED)


def set_weight_budget(engine: trt.ICudaEngine, budget_bytes: int, log: TensorRTLog, network: str) -> None:
    """Keep at most ``budget_bytes`` of an engine's streamable weights on the device. Before contexts are made.

    Raises:
        EngineError: TensorRT refuses the budget.
    """
    budget = min(budget_bytes, engine.streamable_weights_size)
    engine.weight_streaming_budget_v2 = budget
    if engine.weight_streaming_budget_v2 != budget:
        raise log.failure(f"TensorRT refuses a weight budget of {budget} bytes for {network}", BUDGET_REFUSED)


def check_resident(engine: trt.ICudaEngine, network: str) -> None:
    """Check that no weights are streamed: TensorRT then waits inside its execution, which a capture does not allow.

    Raises:
        EngineError: some are; says how many stay on the device.
    """
    budget, size = engine.weight_streaming_budget_v2, engine.streamable_weights_size
    if budget < size:
        raise EngineError(
            f"steps cannot be captured in a CUDA graph while weights of {network} are streamed from host memory",
            found=f"{budget} of {size} bytes of them on the device",
            hint="load the bundle with eager=True (`--eager`), or with a weight budget that holds them all",
        )
