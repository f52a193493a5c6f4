"""Plans, execution contexts and what TensorRT-RTX keeps on disk; and the mistakes that the doubles catch.

Runs on the doubles above the stand-in driver (test_on_the_cuda_double.py).
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from randomness import fresh_rng

pytest.importorskip("cuda.core", reason="needs cuda-core")

from doubles.tensorrt_double import DATACENTER_VERSION
from instantrt import GenerateRequest
from instantrt.bundle import Bundle, FileRecord
from instantrt.contracts import network_contracts
from instantrt.device.cuda import CudaDevice
from instantrt.engine import TargetOptions
from instantrt.engine.kernels import SPECIALIZATION
from instantrt.engine.tensorrt import TensorRTTarget
from instantrt.errors import EngineError, InstantRTError, MissingExtraError, RequestError
from instantrt.network import Network
from instantrt.pipeline import InstantID
from instantrt.plan import PlanError, PlanRecord, TunedFor, plan_path, read_record, write_record
from instantrt.targets import open_target

if TYPE_CHECKING:
    from doubles.cuda_double import CudaDouble
    from doubles.tensorrt_double import TensorRTDouble

pytestmark = pytest.mark.gpu

TARGET = "tensorrt-rtx"
SMALL = "image_projection"  # a network that loads quickly


@pytest.fixture
def copy(planned_bundle: Path, tmp_path: Path) -> Path:
    """A bundle to alter. Large files are linked, so they must be replaced and not written into."""
    return shutil.copytree(planned_bundle, tmp_path / "bundle", copy_function=lambda a, b: Path(b).hardlink_to(a))


@pytest.fixture
def target(tensorrt_double: TensorRTDouble, planned_bundle: Path, tmp_path: Path) -> Iterator[TensorRTTarget]:
    opened = open_rtx(planned_bundle, runtime_cache=tmp_path / "kernels")
    yield opened
    opened.close()


def open_rtx(bundle: Path, **options: Any) -> TensorRTTarget:
    return open_target(TARGET, Bundle.open(bundle), TargetOptions(**options))  # type: ignore[return-value]


def rewrite(bundle: Path, network: str, change: Callable[[PlanRecord], PlanRecord]) -> None:
    """Replace the record beside a plan by a changed one with a proper seal, as a builder would have written it."""
    record = read_record(bundle, TARGET, network)
    write_record(bundle, change(record))


def with_options(**options: Any) -> Callable[[PlanRecord], PlanRecord]:
    """Asked for on top of what the plan was built with."""
    return lambda record: replace(record, identity=replace(record.identity, options=record.identity.options | options))


def project(target: TensorRTTarget) -> np.ndarray:
    """Run a small network; gives [1, 16, width]."""
    network = Network(target, target._bundle.contracts[SMALL], "fp32")
    try:
        return network({"embedding": np.ones((1, 128), np.float32)})["tokens"]
    finally:
        network.close()


# ---- what is loaded ------------------------------------------------------------------------------------------------


def test_a_flipped_byte_is_found_before_anything_is_deserialised(tensorrt_double: TensorRTDouble, copy: Path) -> None:
    path = plan_path(copy, TARGET, "unet")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()
    path.write_bytes(bytes(data))
    deserialised: list[int] = []
    real = tensorrt_double.module.Runtime.deserialize_cuda_engine

    def recorded(self: Any, serialized_engine: Any) -> Any:
        deserialised.append(len(serialized_engine))
        return real(self, serialized_engine)

    tensorrt_double.module.Runtime.deserialize_cuda_engine = recorded
    with pytest.raises(PlanError, match="altered") as error:
        open_rtx(copy)
    assert error.value.ingredient == "file"
    assert len(data) not in deserialised


@pytest.mark.parametrize(
    ("ingredient", "change"),
    [
        ("target_version", {"target_version": "1.2.3.4"}),
        ("compute", {"compute": ("7.5",)}),
        ("tuned_for", {"tuned_for": TunedFor("NVIDIA H200", 132)}),
        ("onnx", {"onnx": {"onnx/unet.onnx": "0" * 64}}),
        ("precision", {"precision": "fp16"}),
        ("options", {"options": {}}),
    ],
)
def test_a_plan_for_something_else_is_refused_by_name(
    tensorrt_double: TensorRTDouble, copy: Path, ingredient: str, change: dict[str, Any]
) -> None:
    record = read_record(copy, TARGET, "unet")
    plan_path(copy, TARGET, "unet").with_suffix(".json").unlink()
    write_record(copy, replace(record, identity=replace(record.identity, **change)))
    with pytest.raises(PlanError, match="instantrt build") as error:
        open_rtx(copy)
    assert error.value.ingredient == ingredient


def test_a_bundle_without_plans_says_which_command_makes_them(tensorrt_double: TensorRTDouble, nano_like: Path) -> None:
    with pytest.raises(PlanError, match=r"instantrt build .* --target tensorrt-rtx"):
        open_rtx(nano_like)


@pytest.fixture
def nano_like(copy: Path) -> Path:
    shutil.rmtree(copy / "plans")
    return copy


def test_a_plan_that_tensorrt_does_not_take_is_an_error_with_its_words(
    tensorrt_double: TensorRTDouble, copy: Path
) -> None:
    path = plan_path(copy, TARGET, SMALL)
    path.unlink()
    path.write_bytes(b"not a plan")
    path.with_suffix(".json").unlink()
    record = read_record_of(copy, tensorrt_double, SMALL)
    write_record(copy, replace(record, file=FileRecord.of(path)))
    with pytest.raises(EngineError, match=f"cannot load the plan of {SMALL}") as error:
        open_rtx(copy)
    assert "damaged" in str(error.value.found)


def read_record_of(bundle: Path, double: TensorRTDouble, network: str) -> PlanRecord:
    return next(source.record for source in double.sources.values() if source.network == network)


def test_missing_wheels_name_the_extra(
    tensorrt_double: TensorRTDouble, planned_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx_bindings", None)
    with pytest.raises(MissingExtraError, match=r"instantrt\[rtx\]"):
        open_rtx(planned_bundle)
    monkeypatch.setitem(sys.modules, "tensorrt", ModuleType("tensorrt"))
    with pytest.raises(MissingExtraError, match=r"instantrt\[tensorrt\]"):
        open_target("tensorrt", Bundle.open(planned_bundle), TargetOptions())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("tensorrt-rtx", {"threads": 2}, "tensorrt-rtx has no option threads"),
        ("onnxruntime", {"device": 0}, "onnxruntime has no option device"),
        ("tensorrt", {"runtime_cache": Path("x")}, "tensorrt has no option runtime_cache"),
        ("tensorrt-rtx", {"weight_budget_bytes": 1}, "no plan of this bundle was built for weight streaming"),
    ],
)
def test_an_option_that_a_target_lacks_is_an_error(
    tensorrt_double: TensorRTDouble, planned_bundle: Path, name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        open_target(name, Bundle.open(planned_bundle), TargetOptions(**options))


# ---- contexts ------------------------------------------------------------------------------------------------------


def test_all_contexts_share_one_arena_of_the_largest_size(target: TensorRTTarget, cuda_double: CudaDouble) -> None:
    sizes = {name: engine.device_memory_size_v2 for name, engine in target._engines.loaded.items()}
    assert target._arena.memory()[1] == max(sizes.values())
    before = cuda_double.live()["device_bytes"]
    engines = [target.load(name, {}) for name in sizes]
    assert cuda_double.live()["device_bytes"] == before, "contexts bring no memory of their own"
    for engine in engines:
        engine.close()


def test_shapes_and_addresses_are_handed_over_once(
    target: TensorRTTarget, tensorrt_double: TensorRTDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    context = tensorrt_double.module.IExecutionContext
    for name in ("set_input_shape", "set_tensor_address", "set_device_memory"):
        monkeypatch.setattr(context, name, counting(getattr(context, name), calls))
    network = Network(target, target._bundle.contracts[SMALL], "fp32")
    inputs = {"embedding": fresh_rng().standard_normal((1, 128)).astype(np.float32)}
    first = network(inputs)["tokens"]
    assert sorted(calls) == ["set_device_memory", "set_input_shape", *["set_tensor_address"] * 2]
    np.testing.assert_array_equal(network(inputs)["tokens"], first)
    assert len(calls) == 4
    network({"embedding": np.ones((2, 128), np.float32)})
    assert len(calls) == 7, "a new shape, new buffers"
    network.close()


def counting(function: Callable[..., Any], calls: list[str]) -> Callable[..., Any]:
    def counted(*args: Any) -> Any:
        calls.append(function.__name__)
        return function(*args)

    return counted


def test_a_context_switches_to_the_profile_that_holds_the_shapes(target: TensorRTTarget) -> None:
    network = Network(target, target._bundle.contracts["time_embedding"], "fp32")
    for guidance_batch in (1, 2, 1):  # a profile each
        inputs = {
            "timesteps": np.arange(5, dtype=np.float32),
            "pooled": np.zeros((guidance_batch, 64), np.float32),
            "time_ids": np.zeros((guidance_batch, 6), np.float32),
        }
        (width,) = {spec.shape[-1] for spec in network._contract.outputs if spec.name == "unet"}
        assert network(inputs)["unet"].shape == (5, guidance_batch, width)
    network.close()


def test_shapes_outside_every_profile_are_refused_with_what_there_is(target: TensorRTTarget) -> None:
    assert target.accepts("unet", {"B": 4, "G": 2, "H": 64, "W": 64})
    outside = {"B": 1, "G": 2, "H": 128, "W": 128}
    assert not target.accepts("unet", outside)
    with pytest.raises(PlanError, match="H=128") as error:
        target.load("unet", outside)
    assert "H 64" in str(error.value.found)
    network = Network(target, target._bundle.contracts[SMALL], "fp32")
    with pytest.raises(PlanError, match="R=3"):
        network({"embedding": np.zeros((3, 128), np.float32)})
    network.close()


def test_a_buffer_of_another_type_is_refused(target: TensorRTTarget) -> None:
    engine = target.load(SMALL, {})
    with pytest.raises(EngineError, match="embedding of image_projection takes float32"):
        engine.bind("embedding", target.device.allocate((1, 128), np.dtype(np.float16)))
    with pytest.raises(KeyError, match="no input or output 'picture'"):
        engine.bind("picture", target.device.allocate((1, 128), np.dtype(np.float32)))
    with pytest.raises(RuntimeError, match="nothing bound to embedding, tokens"):
        engine.enqueue(target.device.stream)
    engine.close()
    with pytest.raises(RuntimeError, match="closed"):
        engine.enqueue(target.device.stream)


def test_a_context_that_cannot_be_captured_is_refused_unless_nothing_is_captured(
    target: TensorRTTarget, tensorrt_double: TensorRTDouble
) -> None:
    tensorrt_double.not_capturable = {SMALL}
    engine = target.load(SMALL, {})
    engine.bind("embedding", target.device.allocate((1, 128), np.dtype(np.float32)))
    engine.bind("tokens", target.device.allocate((1, 16, 128), np.dtype(np.float32)))
    with pytest.raises(EngineError, match="cannot capture image_projection"):
        engine.warm_up(target.device.stream, capture=True)
    engine.warm_up(target.device.stream, capture=False)
    engine.close()


@pytest.mark.parametrize("method", ["set_optimization_profile_async", "infer_shapes"])
def test_what_the_bindings_raise_is_an_error_of_ours_with_tensorrts_words(
    target: TensorRTTarget, tensorrt_double: TensorRTDouble, method: str
) -> None:
    network = Network(target, target._bundle.contracts["cross_attention"], "fp32")
    inputs = {s.name: np.zeros(s.resolve({"G": 2}), np.float32) for s in network._contract.inputs}  # its second profile
    tensorrt_double.refused = {method}
    with pytest.raises(EngineError, match=r"cannot (switch|work out the shapes of) cross_attention") as error:
        network(inputs)
    said = {"infer_shapes": "a shape depends on what is not known", "set_optimization_profile_async": "profile 1"}
    assert said[method] in str(error.value.found)
    assert "instantrt build --force" in str(error.value.hint)
    tensorrt_double.refused.clear()
    assert network(inputs)["text_kv_unet"].shape[0] == 2, "and it can be tried again"
    network.close()


def test_a_target_can_be_used_from_a_thread_that_never_used_a_gpu(target: TensorRTTarget) -> None:
    """As servers do. The current GPU is a thread's own; TensorRT needs it to make contexts and to execute."""
    expected, found = project(target), []
    embedding = target.device.allocate((1, 128), np.dtype(np.float32))
    target.device.upload(np.ones((1, 128), np.float32), embedding)
    engine = target.load(SMALL, {})
    engine.bind("embedding", embedding)
    tokens = target.device.allocate(expected.shape, np.dtype(np.float32))
    engine.bind("tokens", tokens)
    for work in (
        lambda: found.append(project(target)),  # load comes first
        lambda: (engine.enqueue(target.device.stream), found.append(target.device.download(tokens))),
    ):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    np.testing.assert_array_equal(found, [expected, expected])
    engine.close()


# ---- kernels on disk, weights --------------------------------------------------------------------------------------


def test_kernels_are_compiled_once_and_kept_between_starts(
    tensorrt_double: TensorRTDouble, planned_bundle: Path, tmp_path: Path
) -> None:
    def start() -> list[str]:
        tensorrt_double.compiled.clear()
        opened = open_rtx(planned_bundle, runtime_cache=tmp_path / "kernels")
        project(opened)
        opened.close()
        return list(tensorrt_double.compiled)

    assert start() == [SMALL]
    assert [path.suffix for path in (tmp_path / "kernels").iterdir()] == [".cache"]
    assert start() == []
    tensorrt_double.environment = "a machine with another driver"
    assert start() == [SMALL]
    assert start() == [], "the file was replaced"


def test_every_network_has_a_strategy_and_only_the_one_of_many_shapes_has_no_kernels_of_its_own(
    planned_bundle: Path,
) -> None:
    contracts = network_contracts(Bundle.open(planned_bundle).dims)
    assert list(SPECIALIZATION) == list(contracts)
    assert [name for name, strategy in SPECIALIZATION.items() if strategy == "NONE"] == [
        name for name, contract in contracts.items() if "T" in contract.symbols
    ]


def test_the_same_request_twice_takes_the_same_kernels_and_new_steps_compile_nothing(
    tensorrt_double: TensorRTDouble, planned_bundle: Path, tmp_path: Path, astronaut: np.ndarray
) -> None:
    request = GenerateRequest(face=astronaut, prompt="a person", steps=4, width=64, height=64, seed=7)

    def kernels(**changes: Any) -> set[tuple[str, str]]:
        tensorrt_double.kernels.clear()
        pipeline.run(replace(request, **changes))
        return set(tensorrt_double.kernels)

    with InstantID.load(planned_bundle, target=TARGET, runtime_cache=tmp_path) as pipeline:
        taken = kernels()  # of every network, in their first executions
        tensorrt_double.compiled.clear()
        assert {name for name, _ in taken} == set(pipeline.bundle.contracts)
        assert {name for name, kind in taken if kind == "general"} == {"time_embedding"}
        for changes in ({"prompt": "a statue"}, {"steps": 6}, {"sampler": "heun", "steps": 20}, {"steps": 100}):
            assert kernels(**changes) <= taken, changes
        assert tensorrt_double.compiled == []


def test_with_tensorrts_own_choice_the_same_request_would_take_other_kernels_the_second_time(
    tensorrt_double: TensorRTDouble,
    planned_bundle: Path,
    tmp_path: Path,
    astronaut: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That the test above can fail."""
    monkeypatch.setitem(SPECIALIZATION, "vae_decoder", "LAZY")
    with InstantID.load(planned_bundle, target=TARGET, runtime_cache=tmp_path) as pipeline:
        for _ in range(2):
            pipeline.run(GenerateRequest(face=astronaut, prompt="a person", steps=4, width=64, height=64, seed=7))
    assert [kind for name, kind in tensorrt_double.kernels if name == "vae_decoder"] == ["general", "specialised"]


def test_a_damaged_kernel_file_costs_only_time(
    tensorrt_double: TensorRTDouble, planned_bundle: Path, tmp_path: Path
) -> None:
    opened = open_rtx(planned_bundle, runtime_cache=tmp_path)
    project(opened)
    opened.close()
    (file,) = tmp_path.glob("*.cache")
    file.write_bytes(b"\0garbage")
    opened = open_rtx(planned_bundle, runtime_cache=tmp_path)
    project(opened)
    opened.close()
    assert json.loads(file.read_text())["kernels"]


def test_kernels_that_cannot_be_written_are_logged(
    tensorrt_double: TensorRTDouble, planned_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way of a folder")
    opened = open_rtx(planned_bundle, runtime_cache=tmp_path / "file")
    project(opened)
    with caplog.at_level(logging.WARNING):
        opened.close()
    assert "not kept" in caplog.text


def test_a_stripped_plan_gets_its_weights_from_the_onnx_file(
    tensorrt_double: TensorRTDouble, target: TensorRTTarget, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = project(target)
    plan_path(copy, TARGET, SMALL).with_suffix(".json").unlink()
    record = read_record_of(copy, tensorrt_double, SMALL)
    write_record(copy, with_options(strip_weights=True)(record))
    tensorrt_double.know(Bundle.open(copy), TARGET)
    opened = open_rtx(copy)
    np.testing.assert_array_equal(project(opened), expected)
    opened.close()
    monkeypatch.setattr(tensorrt_double.module.OnnxParserRefitter, "refit_from_file", lambda *_: False)
    with pytest.raises(EngineError, match=f"cannot refit the plan from {SMALL}.onnx"):
        open_rtx(copy)


def test_a_stripped_plan_that_is_not_refitted_does_not_run(
    tensorrt_double: TensorRTDouble, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan_path(copy, TARGET, SMALL).with_suffix(".json").unlink()
    write_record(copy, with_options(strip_weights=True)(read_record_of(copy, tensorrt_double, SMALL)))
    tensorrt_double.know(Bundle.open(copy), TARGET)
    monkeypatch.setattr("instantrt.engine.tensorrt.refit", lambda *_: None)
    opened = open_rtx(copy)
    with pytest.raises(EngineError, match="not refitted"):
        project(opened)
    opened.close()


@pytest.mark.parametrize("budget", [0, 1000, 1 << 40])
def test_a_weight_budget_is_set_before_contexts_are_made(
    tensorrt_double: TensorRTDouble, copy: Path, budget: int
) -> None:
    plan_path(copy, TARGET, SMALL).with_suffix(".json").unlink()
    write_record(copy, with_options(weight_streaming=True)(read_record_of(copy, tensorrt_double, SMALL)))
    tensorrt_double.know(Bundle.open(copy), TARGET)
    opened = open_rtx(copy, weight_budget_bytes=budget)
    engine = opened._engines.loaded[SMALL]
    assert engine.weight_streaming_budget_v2 == min(budget, engine.streamable_weights_size)
    project(opened)
    opened.close()


@pytest.fixture
def datacenter(
    tensorrt_double: TensorRTDouble, cuda_double: CudaDouble, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A bundle with plans for TensorRT proper, whose double is installed; the UNet's are version-compatible."""
    double = type(tensorrt_double)(tensorrt_double.base, cuda_double, datacenter=True)
    for network in Bundle.open(copy).contracts:
        record = read_record(copy, TARGET, network)
        plan = plan_path(copy, "tensorrt", network)
        plan.parent.mkdir(exist_ok=True)
        plan.hardlink_to(plan_path(copy, TARGET, network))
        options = {"weight_streaming": True} | ({"version_compatible": True} if network == "unet" else {})
        identity = replace(record.identity, target="tensorrt", target_version=DATACENTER_VERSION, options=options)
        write_record(copy, replace(record, identity=identity))
    double.know(Bundle.open(copy), "tensorrt")
    monkeypatch.setitem(sys.modules, "tensorrt", double.module)
    yield copy
    assert double.violations == []


def test_the_other_flavour_runs_through_the_same_code(target: TensorRTTarget, datacenter: Path) -> None:
    """TensorRT proper: contexts from a strategy, no kernels on disk."""
    expected = project(target)
    opened: TensorRTTarget = open_target("tensorrt", Bundle.open(datacenter), TargetOptions())  # type: ignore[assignment]
    np.testing.assert_array_equal(project(opened), expected)
    opened.close()


def test_steps_of_streamed_weights_are_refused_before_they_are_captured_and_run_eagerly(
    datacenter: Path, cuda_double: CudaDouble, astronaut: np.ndarray
) -> None:
    request = GenerateRequest(face=astronaut, prompt="a person", steps=4, width=64, height=64, seed=7)

    def latents(**options: Any) -> np.ndarray:
        with InstantID.load(datacenter, target="tensorrt", **options) as pipeline:
            return pipeline.run(request).latents

    expected = latents()
    cuda_double.clear_log()
    with pytest.raises(EngineError, match="captured in a CUDA graph while weights of identitynet are stream") as error:
        latents(weight_budget_bytes=1000)
    assert cuda_double.count("cuStreamBeginCapture") == 0
    assert re.fullmatch(r"1000 of \d+ bytes of them on the device", str(error.value.found))
    assert "--eager" in str(error.value.hint)
    np.testing.assert_array_equal(latents(weight_budget_bytes=1000, eager=True), expected)
    np.testing.assert_array_equal(latents(weight_budget_bytes=1 << 40), expected)


def test_the_double_does_not_let_streamed_weights_be_captured(
    datacenter: Path, monkeypatch: pytest.MonkeyPatch, astronaut: np.ndarray
) -> None:
    """What would happen without our own check."""
    monkeypatch.setattr("instantrt.engine.tensorrt.check_resident", lambda *_: None)
    request = GenerateRequest(face=astronaut, prompt="a person", steps=4, width=64, height=64)
    with (
        InstantID.load(datacenter, target="tensorrt", weight_budget_bytes=1000) as pipeline,
        pytest.raises(EngineError, match="cannot execute identitynet") as error,
    ):
        pipeline.run(request)
    assert "not permitted while the stream is capturing" in str(error.value.found)


# ---- mistakes that the doubles catch -------------------------------------------------------------------------------


class Bare:
    """A context of a small network with nothing set, as a careless user of TensorRT has it."""

    def __init__(self, double: TensorRTDouble, device: CudaDevice) -> None:
        trt = double.module
        self.said: list[str] = []
        said = self.said

        class Logger(trt.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, msg: str) -> None:
                said.append(msg)

        source = next(s for s in double.sources.values() if s.network == SMALL)
        plan = source.onnx.parent.parent / "plans" / TARGET / f"{SMALL}.plan"
        self.engine = trt.Runtime(Logger()).deserialize_cuda_engine(plan.read_bytes())
        self.context = self.engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        self.device = device
        size = self.engine.device_memory_size_v2
        self.arena = device.allocate((size,), np.dtype(np.uint8))
        self.buffers = {
            "embedding": device.allocate((1, 128), np.dtype(np.float32)),
            "tokens": device.allocate((1, 16, 128), np.dtype(np.float32)),
        }

    def set_up(self, *, without: str = "") -> None:
        if without != "shape":
            assert self.context.set_input_shape("embedding", (1, 128))
        for name, buffer in self.buffers.items():
            if name != without:
                assert self.context.set_tensor_address(name, buffer.address)
        if without != "memory":
            self.context.set_device_memory(self.arena.address, self.arena.shape[0])

    def execute(self, stream: int | None = None) -> bool:
        return bool(self.context.execute_async_v3(stream or self.device.stream.handle))


@pytest.fixture
def bare(tensorrt_double: TensorRTDouble, cuda_device: CudaDevice) -> Iterator[Bare]:
    made = Bare(tensorrt_double, cuda_device)
    yield made
    for part in ("context", "engine"):  # which holds its weights' memory
        vars(made).pop(part, None)


@pytest.mark.parametrize(
    ("without", "message"),
    [
        ("shape", "the shape of embedding is not set"),
        ("embedding", "the address of embedding is not set"),
        ("tokens", "the address of tokens is not set"),
        ("memory", "no device memory"),
    ],
)
def test_what_is_not_set_is_caught(bare: Bare, without: str, message: str) -> None:
    bare.set_up(without=without)
    assert not bare.execute()
    assert message in bare.said[-1]


def test_a_shape_outside_the_profile_is_caught(bare: Bare) -> None:
    assert not bare.context.set_input_shape("embedding", (9, 128))
    assert "outside profile 0" in bare.said[-1]


def test_a_small_arena_and_a_crooked_address_are_caught(bare: Bare) -> None:
    with pytest.raises(RuntimeError, match="do not do"):
        bare.context.set_device_memory(bare.arena.address, bare.arena.shape[0] - 1)
    assert not bare.context.set_tensor_address("tokens", bare.buffers["tokens"].address + 4)
    assert "not aligned" in bare.said[-1]


def expect_broken_rules(double: CudaDouble, rule: str) -> None:
    """Rules were broken on purpose: check which, and forget them."""
    assert rule in " ".join(double.broken_rules())
    double.reset()


def test_a_buffer_of_a_smaller_type_is_caught(bare: Bare, cuda_double: CudaDouble) -> None:
    bare.buffers["tokens"] = bare.device.allocate((1, 16, 128), np.dtype(np.float16))
    bare.set_up()
    assert not bare.execute()
    assert "cannot be put on the stream" in bare.said[-1]
    expect_broken_rules(cuda_double, "bounds")


@pytest.mark.parametrize("mistake", ["allocation", "synchronisation"])
def test_allocating_or_waiting_during_capture_is_caught(bare: Bare, cuda_double: CudaDouble, mistake: str) -> None:
    from cuda.bindings import driver

    bare.set_up()
    handle = bare.device.stream.handle
    codes = []

    def work() -> None:
        if mistake == "allocation":
            codes.append(driver.cuMemAlloc(64)[0])
        else:
            codes.append(driver.cuStreamSynchronize(handle)[0])

    with pytest.raises(InstantRTError, match="capturing a graph failed"):
        bare.device.capture(work)
    assert codes[0] != driver.CUresult.CUDA_SUCCESS
    cuda_double.reset()


def test_capturing_kernels_that_are_not_compiled_is_caught(bare: Bare, cuda_double: CudaDouble) -> None:
    bare.set_up()
    answers = []
    graph = bare.device.capture(lambda: answers.append(bare.execute()))
    assert answers == [False]
    assert "not compiled" in bare.said[-1]
    graph.close()


@pytest.fixture
def warmed_up(bare: Bare, tensorrt_double: TensorRTDouble) -> Bare:
    tensorrt_double.compiles = False  # kernels are final after the first execution
    bare.set_up()
    assert bare.execute()
    bare.device.synchronize()
    return bare


def test_a_buffer_freed_while_a_graph_still_uses_it_is_caught(warmed_up: Bare, cuda_double: CudaDouble) -> None:
    graph = warmed_up.device.capture(warmed_up.execute)  # type: ignore[arg-type]
    warmed_up.buffers["tokens"].close()
    warmed_up.device.synchronize()
    graph.launch()
    with pytest.raises(InstantRTError, match="CUDA_ERROR"):
        warmed_up.device.synchronize()
    expect_broken_rules(cuda_double, "freed")


def test_a_context_destroyed_before_its_graph_is_caught(warmed_up: Bare, tensorrt_double: TensorRTDouble) -> None:
    graph = warmed_up.device.capture(warmed_up.execute)  # type: ignore[arg-type]
    warmed_up.context = None
    graph.launch()
    warmed_up.device.synchronize()
    assert "context that it had captured was destroyed" in tensorrt_double.violations.pop()


def test_a_context_changed_after_capture_is_caught(warmed_up: Bare, tensorrt_double: TensorRTDouble) -> None:
    graph = warmed_up.device.capture(warmed_up.execute)  # type: ignore[arg-type]
    warmed_up.context.set_tensor_address("tokens", warmed_up.buffers["tokens"].address)
    graph.launch()
    warmed_up.device.synchronize()
    assert "changed after it was captured" in tensorrt_double.violations.pop()


def test_two_engines_on_one_arena_and_two_streams_are_caught(
    warmed_up: Bare, tensorrt_double: TensorRTDouble, cuda_double: CudaDouble
) -> None:
    other = Bare(tensorrt_double, warmed_up.device)
    other.arena.close()
    other.arena = warmed_up.arena
    other.set_up()
    with CudaDevice() as second:
        assert warmed_up.execute()
        assert not other.execute(second.stream.handle)
        expect_broken_rules(cuda_double, "no order between two streams")
    warmed_up.device.synchronize()
