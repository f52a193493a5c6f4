"""One ONNX graph to one plan, in whichever flavour of TensorRT."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, BinaryIO

import onnx

from instantrt.atomic import output_errors, replace_file
from instantrt.bundle import FileRecord
from instantrt.contracts import NetworkContract
from instantrt.errors import InstantRTError
from instantrt.plan import Profile, describe_profile
from instantrt_engines.build_support import BuildSupport, network_flags
from instantrt_engines.log import BuildLog, words
from instantrt_engines.options import BuildOptions
from instantrt_engines.profiles import input_shapes
from instantrt_engines.progress import Interrupt, Progress, progress_monitor
from instantrt_engines.tensorrt_api import TensorRT

if TYPE_CHECKING:
    import tensorrt as trt

QUOTED_ERRORS = 3


class BuildError(InstantRTError):
    """TensorRT refused a network, or its plan could not be written."""

    code = "build"


class RefusedError(BuildError):
    """TensorRT refused a network, and said why."""

    def after(self, first: RefusedError) -> RefusedError:
        """This refusal of a network with its attentions decomposed, after the ``first`` one, of the operators."""
        if self.found == first.found:
            return self
        return RefusedError(
            self.what,
            found=f"{self.found}; and with attentions as operators: {first.found}",
            hint=self.hint,
        )


@dataclass(frozen=True)
class Measured:
    """What building a plan showed; see :class:`instantrt.plan.PlanRecord`."""

    file: FileRecord
    layers: int
    activation_bytes: tuple[int, ...]
    weight_bytes: int | None
    seconds: float


@dataclass(frozen=True)
class Job:
    """Everything one build needs.

    Args:
        support: which TensorRT, and what it can build.
        contract: the network's contract.
        model: its ONNX graph; external weights need not be loaded.
        onnx_path: where that graph was read from: external weights lie beside it.
        profiles: what the plan shall accept.
        options: builder options.
    """

    support: BuildSupport
    contract: NetworkContract
    model: onnx.ModelProto
    onnx_path: Path
    profiles: Sequence[Profile]
    options: BuildOptions


def build_plan(api: TensorRT, job: Job, out: Path, progress: Progress, log: BuildLog) -> Measured:
    """Build a plan and write it to ``out`` through a stream; nothing is kept of it in memory.

    Raises:
        BuildError: TensorRT refused the graph or failed, in its own words; or the disk is full.
    """
    start = perf_counter()
    with log.listening(api.module) as logger:
        builder = api.Builder(logger)
        network = builder.create_network(network_flags(api))
        _parse(api, network, logger, job, log)
        config = builder.create_builder_config()
        job.support.configure(api, config, job.options)
        for profile in job.profiles:
            config.add_optimization_profile(_optimization_profile(api, builder, job.contract, profile))
        interrupt = Interrupt()
        config.progress_monitor = progress_monitor(api, progress, interrupt)
        cache = _timing_cache(config, job.options.timing_cache)
        layers = network.num_layers
        file = _build_to_file(api, builder, network, config, job, out, interrupt, log)
        if cache is not None and job.options.timing_cache is not None:
            _save(job.options.timing_cache, bytes(cache.serialize()))
    progress("done", 1.0)
    seconds = perf_counter() - start
    return Measured(file, layers, tuple(log.activation_bytes), log.weight_bytes, seconds)


def _parse(api: TensorRT, network: trt.INetworkDefinition, logger: trt.ILogger, job: Job, log: BuildLog) -> None:
    parser = api.OnnxParser(network, logger)
    if parser.parse(job.model.SerializeToString(), str(job.onnx_path)):
        return
    quoted = []
    for index in range(min(parser.num_errors, QUOTED_ERRORS)):
        refusal = parser.get_error(index)
        quoted.append(
            f"node {refusal.node_name() or 'without a name'} ({refusal.node_operator()}): {words(refusal.desc())}"
        )
    raise RefusedError(
        f"{job.support.product} does not accept the ONNX graph of {job.contract.name}",
        found="; ".join(quoted or log.errors[:QUOTED_ERRORS]) or "no reason given",
        hint=f"its contract is {_describe(job.contract)}; export the bundle again with `instantrt export`",
    )


def _optimization_profile(
    api: TensorRT, builder: trt.Builder, contract: NetworkContract, profile: Profile
) -> trt.IOptimizationProfile:
    made = builder.create_optimization_profile()
    for spec in contract.inputs:
        low, best, high = (api.Dims(list(shape)) for shape in input_shapes(spec, profile))
        made.set_shape(spec.name, low, best, high)
    return made


def _timing_cache(config: trt.IBuilderConfig, path: Path | None) -> trt.ITimingCache | None:
    if path is None:
        return None
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    config.set_timing_cache(cache, False)
    return cache


def _build_to_file(
    api: TensorRT,
    builder: trt.Builder,
    network: trt.INetworkDefinition,
    config: trt.IBuilderConfig,
    job: Job,
    out: Path,
    interrupt: Interrupt,
    log: BuildLog,
) -> FileRecord:
    with output_errors(out):
        opened = out.open("wb")
    with opened as file:
        sink = PlanSink(file)
        done = builder.build_serialized_network_to_stream(network, config, stream_writer(api, sink))
        with suppress(OSError):  # then the sink's own error tells more
            file.flush()
    if interrupt.error is not None:
        raise interrupt.error
    if sink.error is not None:
        raise BuildError(
            f"the plan of {job.contract.name} cannot be written to {out.parent}",
            found=f"{sink.error.strerror} after {sink.written} bytes",
            hint="make room there and build again; finished plans are kept",
        ) from sink.error
    if not done or sink.written == 0:
        raise RefusedError(
            f"{job.support.product} could not build {job.contract.name}",
            found="; ".join(log.errors[:QUOTED_ERRORS]) or "no reason given",
            hint=_what_to_try(job),
        )
    return FileRecord(sink.written, sink.digest.hexdigest())


@dataclass
class PlanSink:
    """Takes a plan in parts, writes them and keeps their digest. A failed write is kept and stops the build."""

    file: BinaryIO
    written: int = 0
    error: OSError | None = None
    digest: Any = field(default_factory=hashlib.sha256)

    def write(self, data: bytes) -> int:
        """Write one part; returns how much was written, 0 after a failure."""
        if self.error is None:
            try:
                self.file.write(data)
                self.file.flush()
            except OSError as error:
                self.error = error
        if self.error is not None:
            return 0
        self.digest.update(data)
        self.written += len(data)
        return len(data)


def stream_writer(api: TensorRT, sink: PlanSink) -> trt.IStreamWriter:
    """TensorRT's view of a sink."""
    base: Any = api.IStreamWriter

    class Writer(base):  # type: ignore[misc]
        def __init__(self) -> None:
            base.__init__(self)

        def write(self, data: bytes) -> int:
            return sink.write(data)

    writer: trt.IStreamWriter = Writer()
    return writer


def _what_to_try(job: Job) -> str:
    on_gpu = ", ".join(sorted(job.support.on_gpu & set(job.options.asked)))
    return (
        f"{f'{on_gpu} needs a machine with a GPU; otherwise ' if on_gpu else ''}read TensorRT's full log, which "
        f"--log FILE keeps; profiles: {_describe_all(job.profiles)}; contract: {_describe(job.contract)}"
    )


def _describe(contract: NetworkContract) -> str:
    inputs = ", ".join(f"{s.name} {s.dtype} [{', '.join(map(str, s.shape))}]" for s in contract.inputs[:6])
    return f"{contract.name}({inputs}{', ...' if len(contract.inputs) > 6 else ''})"


def _describe_all(profiles: Sequence[Profile]) -> str:
    return "; ".join(describe_profile(profile) for profile in profiles)


def _save(path: Path, data: bytes) -> None:
    replace_file(path, lambda file: file.write(data))
