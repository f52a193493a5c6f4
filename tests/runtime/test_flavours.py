"""The modules of TensorRT and TensorRT-RTX are loaded through one table; what is missing is said for each use."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from instantrt.engine import TargetOptions, flavours
from instantrt.engine.flavours import FLAVOURS, Use, covers
from instantrt.errors import MissingExtraError, WheelError

RTX, DATACENTER = FLAVOURS["tensorrt-rtx"], FLAVOURS["tensorrt"]
USES = pytest.mark.parametrize(("use", "extra"), [("run", "{}"), ("build", "build,{}")])

Hide = Callable[..., None]


@pytest.fixture
def no_modules(monkeypatch: pytest.MonkeyPatch) -> Hide:
    """Makes these modules impossible to import."""

    def hide(*names: str) -> None:
        real = importlib.import_module

        def import_module(name: str, package: str | None = None) -> types.ModuleType:
            if name in names:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            return real(name, package)

        monkeypatch.setattr(importlib, "import_module", import_module)

    return hide


def test_every_option_of_a_flavour_is_one_that_targets_know() -> None:
    for flavour in FLAVOURS.values():
        assert set(flavour.options) <= set(TargetOptions.__dataclass_fields__)


@USES
@pytest.mark.parametrize("wheel", ["tensorrt_rtx_bindings", "onnxruntime_ep_nv_tensorrt_rtx"])
def test_a_missing_wheel_names_the_extra_for_the_use(no_modules: Hide, wheel: str, use: Use, extra: str) -> None:
    no_modules(wheel)
    with pytest.raises(MissingExtraError) as error:
        RTX.load(use)
    assert wheel in str(error.value.found)
    assert error.value.hint == f'pip install "instantrt[{extra.format("rtx")}]"'


@USES
def test_missing_datacenter_wheels_name_their_extra(no_modules: Hide, use: Use, extra: str) -> None:
    no_modules("tensorrt")
    with pytest.raises(MissingExtraError) as error:
        DATACENTER.load(use)
    assert error.value.hint == f'pip install "instantrt[{extra.format("tensorrt")}]"'


def test_an_empty_folder_of_that_name_is_no_tensorrt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "tensorrt").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(MissingExtraError, match="has no ILogger"):
        DATACENTER.load()
    sys.modules.pop("tensorrt", None)


def test_an_empty_folder_of_the_bindings_name_is_no_tensorrt_rtx(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime_ep_nv_tensorrt_rtx", reason="needs the rtx extra")
    monkeypatch.setitem(sys.modules, "tensorrt_rtx_bindings", types.ModuleType("tensorrt_rtx_bindings"))
    with pytest.raises(MissingExtraError, match="has no ILogger"):
        RTX.load()


@pytest.mark.parametrize(
    ("target", "capabilities", "runs"),
    [
        ("tensorrt-rtx", ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1"), True),
        ("tensorrt-rtx", ("7.0", "8.7", "9.0", "10.0", "11.0"), False),
        ("tensorrt", ("7.5", "8.7", "9.0", "10.0", "12.0"), True),
        ("tensorrt", ("6.1", "7.2"), False),
    ],
)
def test_a_gpu_is_refused_with_its_capability_and_what_to_use_there(
    target: str, capabilities: tuple[str, ...], runs: bool
) -> None:
    pytest.importorskip("cuda.core", reason="needs cuda-core")
    from doubles.gpus import gpu

    for capability in capabilities:
        refusal = FLAVOURS[target].refusal(gpu(capability, "NVIDIA Something"))
        assert (refusal is None) == runs, capability
        if refusal is not None:
            assert f"GPU 0, NVIDIA Something, of compute capability {capability}" in str(refusal.found)
            assert f"use --target {'tensorrt' if target == 'tensorrt-rtx' else 'onnxruntime'}" in str(refusal.hint)


def test_capabilities_are_covered_exactly_or_from_one_on() -> None:
    assert covers(("8.6",), "8.6")
    assert not covers(("8.6",), "8.7")
    assert covers(("12.0+",), "12.1")
    assert covers(("8.0+",), "10.0"), "not as text"
    assert not covers(("12.0+",), "9.0")
    assert not covers((), "9.0")


@USES
def test_a_version_that_is_too_old_says_which_is_needed_and_that_jetsons_need_jetpack_7(use: Use, extra: str) -> None:
    """JetPack 6 has TensorRT 10.3."""
    old = types.SimpleNamespace(__version__="10.3.0", ILogger=object)
    with pytest.raises(WheelError, match="this TensorRT is too old") as error:
        replace(DATACENTER, import_module=lambda: old).load(use)
    assert error.value.found == "version 10.3.0, needed is 10.13 or later"
    assert 'pip install --upgrade "instantrt[tensorrt]"' in str(error.value.hint)
    assert "on a Jetson, JetPack 7" in str(error.value.hint)
    assert replace(DATACENTER, import_module=lambda: types.SimpleNamespace(__version__="11.0", ILogger=object)).load()


class TestOfTheRealWheels:
    @pytest.fixture(autouse=True)
    def _wheels(self) -> None:
        pytest.importorskip("onnxruntime_ep_nv_tensorrt_rtx", reason="needs the rtx extra")

    def test_the_library_reports_the_version_of_the_bindings(self) -> None:
        assert flavours.rtx_library_version() == RTX.load().__version__

    @pytest.mark.parametrize("use", ["run", "build"])
    def test_wheels_of_different_versions_are_refused_for_both_uses(
        self, monkeypatch: pytest.MonkeyPatch, use: Use
    ) -> None:
        bindings = RTX.load().__version__
        monkeypatch.setattr(flavours, "rtx_library_version", lambda: "1.5.0.99")
        with pytest.raises(WheelError, match="do not belong together") as error:
            RTX.load(use)
        assert error.value.found == f"bindings {bindings}, library 1.5.0.99"

    def test_bindings_that_do_not_load_on_that_library_are_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real = importlib.import_module

        def import_module(name: str) -> types.ModuleType:
            if name == "tensorrt_rtx_bindings":
                raise ImportError("undefined symbol: createInferBuilder_v9")
            return real(name)

        monkeypatch.setattr(importlib, "import_module", import_module)
        with pytest.raises(WheelError, match="bindings unknown, library"):
            RTX.load()
