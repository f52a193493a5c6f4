"""Both flavours can build what the table says, by calls that exist; what one lacks is refused in its own words."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import types
from dataclasses import fields, replace
from pathlib import Path

import pytest

from instantrt.cli import main
from instantrt.engine.flavours import covers
from instantrt.engine.tensorrt_log import tensorrt_log
from instantrt.errors import DeviceError, RequestError, WheelError
from instantrt_engines import build_support
from instantrt_engines.build import build_support_of
from instantrt_engines.build_support import (
    BUILD_SUPPORT,
    HARDWARE_LEVELS,
    OPTION_FLAGS,
    TILING_LEVELS,
    BuildSupport,
    network_flags,
)
from instantrt_engines.options import BuildOptionError, BuildOptions
from instantrt_engines.tensorrt_api import TensorRT

ROOT = Path(__file__).parents[2]
ENGINES = ROOT / "engines/instantrt_engines"
TYPINGS = ROOT / ".venv/typings"
RTX, DATACENTER = BUILD_SUPPORT["tensorrt-rtx"], BUILD_SUPPORT["tensorrt"]
ASKED = {
    "optimization_level": 3,
    "tiling_level": "fast",
    "aux_streams": 0,
    "strip_weights": True,
    "weight_streaming": True,
    "hardware_compatibility": "ampere_plus",
    "version_compatible": True,
    "fp32_attention": True,
    "compute": ("8.6",),
    "timing_cache": Path("timings"),
}

# Every method and property of a TensorRT object that the package uses, by class, with the arguments it gives.
CALLS = {
    "Builder": {
        "create_network": ("flags",),
        "create_builder_config": (),
        "create_optimization_profile": (),
        "build_serialized_network_to_stream": ("network", "config", "writer"),
    },
    "OnnxParser": {"parse": ("model", "path"), "get_error": ("index",), "num_errors": None},
    "ParserError": {"desc": (), "node_name": (), "node_operator": ()},
    "IBuilderConfig": {
        "set_flag": ("flag",),
        "clear_flag": ("flag",),
        "add_optimization_profile": ("profile",),
        "create_timing_cache": ("serialized_timing_cache",),
        "set_timing_cache": ("cache", "ignore_mismatch"),
        "builder_optimization_level": None,
        "max_aux_streams": None,
        "tiling_optimization_level": None,
        "hardware_compatibility_level": None,
        "progress_monitor": None,
    },
    "IOptimizationProfile": {"set_shape": ("input", "min", "opt", "max")},
    "INetworkDefinition": {"num_layers": None},
    "ITimingCache": {"serialize": ()},
    "IProgressMonitor": {
        "phase_start": ("phase_name", "parent_phase", "num_steps"),
        "step_complete": ("phase_name", "step"),
        "phase_finish": ("phase_name",),
    },
    "ILogger": {"log": ("severity", "msg")},
    "IStreamWriter": {"write": ("data", "size")},  # as the bindings declare it; Python overrides get only the data
}


@pytest.fixture(scope="module")
def api() -> TensorRT:
    return RTX.load()


@pytest.mark.parametrize("owner", CALLS)
def test_the_bindings_have_every_call_with_these_parameters(api: TensorRT, owner: str) -> None:
    for name, expected in CALLS[owner].items():
        found = inspect.getattr_static(getattr(api.module, owner), name)
        if expected is None:
            assert isinstance(found, property), f"{owner}.{name}"
            continue
        signature = re.match(rf"{name}\((.*)\) ->", getattr(api.module, owner).__dict__[name].__doc__)
        parameters = re.findall(r"(\w+):", re.sub(r"self: [\w.]+(, )?", "", signature[1]))
        assert tuple(parameters) == expected, f"{owner}.{name}"


def test_every_call_in_the_package_is_in_that_list() -> None:
    """Attributes taken from TensorRT's objects in the source, found by the names of the variables that hold them."""
    holders = "builder|network|config|parser|made|cache|refusal"
    used = set()
    for name in ("builder.py", "build_support.py"):
        used |= set(re.findall(rf"(?<![\w.])(?:{holders})\.(\w+)", (ENGINES / name).read_text(encoding="utf-8")))
    listed = {name for calls in CALLS.values() for name in calls}
    only_rtx = {"num_compute_capabilities", "set_compute_capability"}
    assert used - only_rtx <= listed
    assert {"parse", "set_shape", "set_flag", "create_network"} <= used


def test_every_flag_that_an_option_sets_exists(api: TensorRT) -> None:
    for names in OPTION_FLAGS.values():
        for name in names:
            assert hasattr(api.BuilderFlag, name)
    assert set(OPTION_FLAGS) <= set(BuildOptions.__dataclass_fields__)
    for level in TILING_LEVELS.values():
        assert hasattr(api.module.TilingOptimizationLevel, level)
    for level in HARDWARE_LEVELS.values():
        assert hasattr(api.HardwareCompatibilityLevel, level)
    for member in RTX.capabilities.values():
        assert hasattr(api.module.ComputeCapability, member)
    assert network_flags(api) > 0


@pytest.mark.parametrize(
    "options", [BuildOptions(), BuildOptions(weight_streaming=True), BuildOptions(strip_weights=True, aux_streams=0)]
)
def test_the_identity_names_the_flags_that_are_on_in_the_builder_and_tf32_is_off(
    api: TensorRT, options: BuildOptions
) -> None:
    config = api.Builder(tensorrt_log(api.module).logger).create_builder_config()
    assert config.get_flag(api.BuilderFlag.TF32), "TensorRT's own default"
    RTX.configure(api, config, options)
    on = {name for name, flag in api.BuilderFlag.__members__.items() if config.get_flag(flag)}
    assert set(str(RTX.identity(options)["flags"]).split()) == on
    assert "TF32" not in on


def test_what_can_be_built_for_is_what_the_flavour_runs_on() -> None:
    for support in BUILD_SUPPORT.values():
        runs_on = support.flavour.compute_capabilities
        assert all(covers(runs_on, capability) for capability in support.capabilities)
        assert set(support.default_compute or ()) <= set(runs_on)


def test_precision_flags_that_version_11_removed_are_not_used() -> None:
    removed = ("FP16", "BF16", "INT8", "FP8", "OBEY_PRECISION", "calibrat", "set_precision", "algorithm_selector")
    for path in ENGINES.glob("*.py"):
        code = re.sub(r'""".*?"""', "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        for name in removed:
            assert not re.search(rf"BuilderFlag\.{name}\b|\.{name}\(", code), f"{path.name} uses {name}"


@pytest.mark.skipif(not TYPINGS.is_dir(), reason="TensorRT's stubs are fetched by `make check`")
def test_the_stubs_of_the_datacenter_flavour_refuse_a_wrong_call(tmp_path: Path) -> None:
    """That the type checker really sees TensorRT's types: the package's own code is checked by `make check`."""
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "from instantrt_engines.tensorrt_api import TensorRT\n"
        "def build(api: TensorRT) -> None:\n"
        "    builder = api.Builder(api.ILogger())\n"
        "    builder.create_network(1)\n"
        "    builder.create_network('one')\n"
        "    builder.build_cuda_engine(1)\n"
    )
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), str(wrong)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    errors = [line for line in done.stdout.splitlines() if "wrong.py" in line]
    assert [re.search(r"\[(.*)\]$", line)[1] for line in errors] == ["arg-type", "attr-defined"], done.stdout


@pytest.mark.parametrize("support", BUILD_SUPPORT.values(), ids=BUILD_SUPPORT)
@pytest.mark.parametrize("name", ASKED)
def test_an_option_is_taken_or_refused_by_name(support: BuildSupport, name: str) -> None:
    assert set(ASKED) == {field.name for field in fields(BuildOptions)}
    options = BuildOptions(**{name: ASKED[name]})
    assert options.asked == (name,)
    if name in support.options:
        support.check(options)
        return
    with pytest.raises(BuildOptionError, match=f"{support.product} has no option {name}"):
        support.check(options)


def test_the_flavours_differ_where_the_table_says_so() -> None:
    assert RTX.options - DATACENTER.options == {"compute"}
    assert DATACENTER.options - RTX.options == {
        "hardware_compatibility",
        "version_compatible",
        "timing_cache",
        "fp32_attention",
    }
    table = build_support.__doc__
    for word in ("TensorRT 10", "TensorRT 11", "TensorRT-RTX", "hardware_compatibility", "device_memory_size"):
        assert word in table


@pytest.mark.parametrize("wrong", [{"optimization_level": 6}, {"optimization_level": -1}, {"aux_streams": -1}])
def test_numbers_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(BuildOptionError, match=str(*wrong.values())):
        BuildOptions(**wrong)


def test_unknown_capabilities_and_levels_list_the_known_ones() -> None:
    with pytest.raises(BuildOptionError, match=r"(?s)compute capability 6\.1.*8\.6"):
        RTX.check(BuildOptions(compute=("8.6", "6.1")))
    with pytest.raises(BuildOptionError, match="ampere_plus"):
        DATACENTER.check(BuildOptions(hardware_compatibility="hopper"))
    with pytest.raises(BuildOptionError, match="none, fast, moderate, full"):
        RTX.check(BuildOptions(tiling_level="most"))


def test_compute_is_sorted_and_part_of_the_identity() -> None:
    assert RTX.compute(BuildOptions(compute=("12.0", "8.6"))) == ("8.6", "12.0")
    assert RTX.compute(BuildOptions()) == ("8.0", "8.6", "8.9", "12.0+")
    assert DATACENTER.compute(BuildOptions(hardware_compatibility="ampere_plus")) == ("8.0+",)
    assert "compute" not in BuildOptions(compute=("8.6",)).identity
    assert BuildOptions(timing_cache=Path("x")).identity == {}


def test_a_version_that_lacks_something_is_too_old() -> None:
    old = types.SimpleNamespace(__version__="10.13", __name__="tensorrt", ILogger=object)
    old_tensorrt = replace(DATACENTER, flavour=replace(DATACENTER.flavour, import_module=lambda: old))
    with pytest.raises(WheelError, match=r"(?s)TensorRT 10\.13 lacks what building needs.*instantrt\[build,tensorrt\]"):
        old_tensorrt.load()


def test_an_option_of_later_versions_says_from_which_on() -> None:
    asked = BuildOptions(fp32_attention=True)
    for version in ("10.13.0", "11.2.9"):
        with pytest.raises(BuildOptionError, match=r"fp32_attention from version 11\.3 on") as error:
            DATACENTER.check_version(asked, version)
        assert error.value.found == f"version {version}"
        DATACENTER.check_version(BuildOptions(), version)
    for version in ("11.3.0.1", "11.10.0"):
        DATACENTER.check_version(asked, version)


def test_datacenter_plans_need_a_gpu() -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("there is a GPU")
    with pytest.raises(DeviceError, match="only on the GPU that they are for") as error:
        DATACENTER.compute(BuildOptions())
    assert error.value.found == "no libcuda.so.1 on this machine"
    assert "--target tensorrt-rtx" in str(error.value.hint)


def test_onnxruntime_and_unknown_targets_have_nothing_to_build() -> None:
    with pytest.raises(RequestError, match="nothing to build"):
        build_support_of("onnxruntime")
    with pytest.raises(RequestError, match="tensorrt-rtx"):
        build_support_of("openvino")


def test_the_command_line_has_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["build", "--help"])
    text = capsys.readouterr().out
    for field in fields(BuildOptions):
        assert f"--{field.name.replace('_', '-')}" in text
