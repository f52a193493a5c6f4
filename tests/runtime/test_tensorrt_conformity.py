"""The doubles of TensorRT's execution calls have nothing that the real bindings lack, with the same parameters."""

from __future__ import annotations

import inspect
import re
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("cuda.bindings.driver", reason="needs cuda-bindings")
pytest.importorskip("onnxruntime_ep_nv_tensorrt_rtx", reason="needs the rtx extra")
pytest.importorskip("tensorrt_rtx_bindings", reason="needs the rtx extra")

import tensorrt_rtx_bindings as trt

from doubles.tensorrt_double import TensorRTDouble

DOUBLED = TensorRTDouble(trt, cuda=None).module  # type: ignore[arg-type]
CLASSES = list(DOUBLED.doubled)

# Python's own, and what the doubles keep in attributes of their own. TensorRT answers these in other ways.
OWN_ATTRIBUTES = {"IExecutionContext": {"version"}, "IRuntimeCache": {"kernels"}}
USED_ENUMERATIONS = (
    "ExecutionContextAllocationStrategy",
    "DynamicShapesKernelSpecializationStrategy",
    "CudaGraphStrategy",
)


def public(cls: type) -> dict[str, Any]:
    return {name: value for name, value in vars(cls).items() if not name.startswith("_")}


def signatures(function: Any) -> list[list[str]]:
    """Parameter names of each overload of a bound C++ function, without ``self``, as its docstring lists them."""
    pattern = re.compile(rf"^(?:\d+\. )?{function.__name__}\((self: [^,)]+(?:, )?)?(.*)\) -> ", re.MULTILINE)
    return [re.findall(r"(?:^|, )(\w+): ", arguments) for _, arguments in pattern.findall(function.__doc__)]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)
def test_every_method_is_the_real_classs_with_its_parameters(cls: type) -> None:
    real = getattr(trt, cls.__name__)
    methods = {name: value for name, value in public(cls).items() if inspect.isfunction(value)}
    for name, method in methods.items():
        assert hasattr(real, name), f"{cls.__name__}.{name} does not exist"
        known = signatures(getattr(real, name))
        assert known, f"no signature of {cls.__name__}.{name} found"
        parameters = list(inspect.signature(method).parameters.values())[1:]
        if any(p.kind is p.VAR_POSITIONAL for p in parameters):
            continue  # takes whichever overload
        assert [p.name for p in parameters] in known, f"{cls.__name__}.{name} takes {known}"


@pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)
def test_every_property_is_the_real_classs(cls: type) -> None:
    real = getattr(trt, cls.__name__)
    for name, value in public(cls).items():
        if isinstance(value, property):
            assert isinstance(inspect.getattr_static(real, name), property), f"{cls.__name__}.{name}"
            assert value.fset is None or inspect.getattr_static(real, name).fset is not None, f"{name} is read-only"


@pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)
def test_every_attribute_set_in_the_constructor_is_the_real_classs(cls: type) -> None:
    real = getattr(trt, cls.__name__)
    source = inspect.getsource(cls.__init__)
    for name in set(re.findall(r"self\.([a-z]\w*)\b(?:: [^=]+)? = ", source)) - OWN_ATTRIBUTES.get(cls.__name__, set()):
        assert hasattr(real, name), f"{cls.__name__}.{name} does not exist"


@pytest.mark.parametrize("cls", [c for c in CLASSES if c.__name__ in ("Runtime", "Refitter", "OnnxParserRefitter")])
def test_constructors_take_the_real_ones_parameters(cls: type) -> None:
    real = getattr(trt, cls.__name__)
    assert list(inspect.signature(cls).parameters) in signatures(real.__init__)


def test_what_is_not_doubled_is_the_real_thing() -> None:
    assert isinstance(DOUBLED, ModuleType)
    for name in (*USED_ENUMERATIONS, "ILogger", "Dims", "DataType", "nptype", "TensorIOMode", "__version__"):
        assert getattr(DOUBLED, name) is getattr(trt, name)
    for name in USED_ENUMERATIONS:
        assert getattr(trt, name).__members__


def test_the_comparison_finds_a_method_and_a_parameter_that_do_not_exist() -> None:
    assert signatures(trt.IExecutionContext.set_tensor_address) == [["name", "memory"]]
    assert signatures(trt.ICudaEngine.create_execution_context) == [["strategy"], ["runtime_config"]]
    assert ["name", "pointer"] not in signatures(trt.IExecutionContext.set_tensor_address)
    assert not hasattr(trt.ICudaEngine, "device_memory_size"), "removed: only _v2 is left"
