"""Building with the real TensorRT-RTX: what is valid stays, what is not is built, nothing half-done is ever seen."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from doubles.graphs import FLOAT, HALF, control, model, projection, weight, write_bundle
from doubles.small import DIMS
from instantrt.bundle import Bundle
from instantrt.cli import main
from instantrt.contracts import network_contracts
from instantrt.engine import flavours
from instantrt.errors import BundleError
from instantrt.plan import PlanError, PlanRecord, TunedFor, open_plan, plan_path, record_path, write_record
from instantrt_engines import builder
from instantrt_engines.build import BuildRequest, BuildResult, build_plans
from instantrt_engines.build_support import BUILD_SUPPORT
from instantrt_engines.builder import BuildError
from instantrt_engines.options import BuildOptionError, BuildOptions
from instantrt_engines.profiles import ShapeOptions

TARGET = "tensorrt-rtx"
NAMES = ["image_projection", "control_embedding"]
EVERYTHING = BuildRequest(TARGET)
PROJECTION = BuildRequest(TARGET, only=("image_projection",))


def build(folder: Path, request: BuildRequest = EVERYTHING, **kwargs) -> list[BuildResult]:
    return list(build_plans(Bundle.open(folder), request, **kwargs))


def names_in(folder: Path) -> set[str]:
    return {path.name for path in (folder / "plans" / TARGET).iterdir() if path.suffix != ".lock"}


def test_plans_are_built_verified_and_complete(bundle: Path) -> None:
    results = build(bundle)
    assert [r.record.identity.network for r in results] == NAMES
    assert names_in(bundle) == {f"{name}.{suffix}" for name in NAMES for suffix in ("plan", "json")}
    opened = Bundle.open(bundle)
    for result in results:
        plan = open_plan(opened, TARGET, result.record.identity.network)
        plan.open_verified().close()
        assert plan.record == result.record
        assert plan.record.weight_bytes > 0
        assert len(plan.record.activation_bytes) == len(plan.record.identity.profiles)


def test_a_built_plan_is_for_the_library_that_built_it(bundle: Path) -> None:
    pytest.importorskip("cuda.core", reason="needs cuda-core")
    from doubles.gpus import gpu

    build(bundle, PROJECTION)
    plan = open_plan(Bundle.open(bundle), TARGET, "image_projection")
    plan.check_host("1.7.1.116", gpu("8.9"))
    with pytest.raises(PlanError, match="is stale: wrong target_version"):
        plan.check_host("1.6.0.1", gpu("8.9"))


def test_what_is_valid_is_not_built_again(bundle: Path) -> None:
    build(bundle)
    before = {p: p.stat().st_mtime_ns for p in (bundle / "plans" / TARGET).iterdir()}
    assert [r.reason for r in build(bundle)] == [None, None]
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert build(bundle, replace(PROJECTION, force=True))[0].reason == "asked for"


def test_an_interrupted_build_goes_on_where_it_stopped(bundle: Path) -> None:
    build(bundle, PROJECTION)
    assert [r.reason is None for r in build(bundle)] == [True, False]


STALE = {
    "target_version": {"target_version": "1.6.0.1"},
    "profiles": {"profiles": ({"R": (1, 1, 1)},)},
    "compute": {"compute": ("8.6",)},
    "tuned_for": {"tuned_for": TunedFor("NVIDIA H100 80GB HBM3", 132)},
    "options": {"options": {"weight_streaming": True}},
    "onnx": {"onnx": {"onnx/image_projection.onnx": "0" * 64}},
    "precision": {"precision": "fp32"},
}


@pytest.mark.parametrize("ingredient", STALE)
def test_a_stale_plan_is_built_again_and_the_reason_names_the_ingredient(bundle: Path, ingredient: str) -> None:
    (result,) = build(bundle, PROJECTION)
    write_record(bundle, replace(result.record, identity=replace(result.record.identity, **STALE[ingredient])))
    (again,) = build(bundle, PROJECTION)
    assert ingredient in again.reason
    assert again.record.identity == result.record.identity


def test_a_plan_without_a_flag_that_every_plan_gets_is_refused_and_built_again(bundle: Path) -> None:
    (result,) = build(bundle, PROJECTION)
    assert result.record.identity.options == {"flags": "REQUIRE_USER_ALLOCATION"}
    write_record(bundle, replace(result.record, identity=replace(result.record.identity, options={"flags": ""})))
    with pytest.raises(PlanError, match="is stale: wrong options"):
        open_plan(Bundle.open(bundle), TARGET, "image_projection")
    (again,) = build(bundle, PROJECTION)
    assert "options" in again.reason
    assert again.record.identity == result.record.identity


def test_a_plan_of_an_earlier_version_is_built_again(bundle: Path) -> None:
    build(bundle, PROJECTION)
    path = record_path(bundle, TARGET, "image_projection")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 1}))
    (again,) = build(bundle, PROJECTION)
    assert "built by another version of InstantRT" in again.reason
    open_plan(Bundle.open(bundle), TARGET, "image_projection").open_verified().close()


def test_options_and_profiles_asked_for_make_a_new_plan(bundle: Path) -> None:
    first = build(bundle)
    asked = BuildRequest(
        TARGET,
        ShapeOptions(slots=(1, 1, 4), sizes=((128, 128), (256, 128))),
        BuildOptions(weight_streaming=True, compute=("8.6", "12.0"), optimization_level=2, aux_streams=0),
    )
    second = build(bundle, asked)
    assert second[0].reason.startswith("compute: ")
    assert second[1].record.identity.compute == ("8.6", "12.0")
    assert second[1].record.identity.options == {
        "weight_streaming": True,
        "optimization_level": 2,
        "aux_streams": 0,
        "flags": "WEIGHT_STREAMING",
    }
    assert first[1].record.identity.options == {"flags": "REQUIRE_USER_ALLOCATION"}
    profiles = second[1].record.identity.profiles
    assert [(p["B"], p["W"][1]) for p in profiles] == [((1, 1, 1), 128), ((1, 1, 1), 256)]  # the control picture is one
    assert first[1].record.identity.profiles != profiles
    assert [r.reason for r in build(bundle, asked)] == [None, None]


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "edit"])
def test_a_damaged_plan_is_built_again(bundle: Path, damage: str) -> None:
    build(bundle, PROJECTION)
    plan, record = (f(bundle, TARGET, "image_projection") for f in (plan_path, record_path))
    data = bytearray(plan.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
        plan.write_bytes(data)
    elif damage == "truncate":
        plan.write_bytes(data[:-1])
    elif damage == "delete":
        plan.unlink()
    else:
        record.write_text(record.read_text().replace("12.0+", "12.0"))
    opened = Bundle.open(bundle)
    with pytest.raises(PlanError, match="instantrt build"):
        open_plan(opened, TARGET, "image_projection").open_verified()
    (again,) = build(bundle, PROJECTION)
    assert again.reason is not None
    open_plan(Bundle.open(bundle), TARGET, "image_projection").open_verified().close()


def test_a_mixed_concat_is_quoted_with_node_and_contract(tmp_path: Path) -> None:
    """The trap of diffusers' fp16 pooled text beside fp32 time features."""
    nodes = [
        helper.make_node("Cast", ["embedding"], ["half"], to=HALF),
        helper.make_node("Concat", ["half", "embedding"], ["mixed"], axis=1, name="the_mixed_one"),
        helper.make_node("Cast", ["mixed"], ["flat"], to=HALF),
        helper.make_node("MatMul", ["flat", "w"], ["rows"]),
        helper.make_node("Reshape", ["rows", "shape"], ["tokens"]),
    ]
    width, tokens = DIMS.face_embedding_width, DIMS.face_tokens
    weights = [weight("w", 2 * width, tokens * 8), numpy_helper.from_array(np.array([-1, tokens, 8]), "shape")]
    proto = model(nodes, [("embedding", FLOAT, ["R", width])], [("tokens", HALF, ["R", tokens, 8])], weights)
    folder = write_bundle(tmp_path / "bundle", {"image_projection": proto})
    with pytest.raises(BuildError) as error:
        build(folder, replace(PROJECTION, allow_slow=True))
    message = str(error.value)
    assert "the_mixed_one" in message
    assert "(Concat)" in message
    assert "same type" in message
    assert f"image_projection(embedding float32 [R, {width}])" in message
    assert names_in(folder) == set()


def test_an_unknown_operator_is_quoted(tmp_path: Path) -> None:
    proto = projection()
    proto.graph.node[1].op_type, proto.graph.node[1].domain = "Teleport", "elsewhere"
    proto.opset_import.append(helper.make_opsetid("elsewhere", 1))
    folder = write_bundle(tmp_path / "bundle", {"image_projection": proto})
    with pytest.raises(BuildError, match="Teleport"):
        build(folder, PROJECTION)


def test_a_failed_build_leaves_the_old_plan(bundle: Path, monkeypatch) -> None:
    (first,) = build(bundle, PROJECTION)

    def full(self: builder.PlanSink, data: bytes) -> int:
        self.error = OSError(28, "No space left on device")
        return 0

    monkeypatch.setattr(builder.PlanSink, "write", full)
    with pytest.raises(BuildError, match="No space left on device after 0 bytes"):
        build(bundle, replace(PROJECTION, force=True))
    monkeypatch.undo()
    assert names_in(bundle) == {"image_projection.plan", "image_projection.json"}
    assert build(bundle, PROJECTION) == [BuildResult(first.record, None)]


def test_no_disk_space_is_one_clear_message(bundle: Path) -> None:
    """Files of this process may grow to 64 kB only: the plan's real write fails half-way."""
    code = f"""
import resource, sys
from instantrt.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
sys.exit(main(["build", {str(bundle)!r}, "--target", "{TARGET}", "--only", "image_projection"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "cannot be written" in done.stderr
    assert os.strerror(27) in done.stderr  # EFBIG, as RLIMIT_FSIZE gives it
    assert "Traceback" not in done.stderr
    assert names_in(bundle) == set()
    assert build(bundle, PROJECTION)[0].reason is not None


def test_a_killed_build_leaves_the_bundle_usable(bundle: Path) -> None:
    build(bundle, PROJECTION)
    code = f"""
import os, signal
from instantrt.bundle import Bundle
from instantrt_engines.build import BuildRequest, build_plans
from instantrt_engines import builder
write = builder.PlanSink.write
def die_half_way(self, data):
    write(self, data[: len(data) // 2])
    os.kill(os.getpid(), signal.SIGKILL)
builder.PlanSink.write = die_half_way
list(build_plans(Bundle.open({str(bundle)!r}), BuildRequest("{TARGET}")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL
    assert (bundle / "plans" / TARGET / "control_embedding.plan.partial").stat().st_size > 0
    opened = Bundle.open(bundle)
    open_plan(opened, TARGET, "image_projection").open_verified().close()
    with pytest.raises(PlanError, match="there is no tensorrt-rtx plan of control_embedding"):
        open_plan(opened, TARGET, "control_embedding")
    assert [r.reason is None for r in build(bundle)] == [True, False]
    assert names_in(bundle) == {f"{name}.{suffix}" for name in NAMES for suffix in ("plan", "json")}


def test_two_builds_at_once_share_one_plan(bundle: Path) -> None:
    command = [sys.executable, "-m", "instantrt.cli", "build", str(bundle), "--target", TARGET, "--json"]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    reports = [json.loads(process.communicate()[0]) for process in running]
    assert [process.returncode for process in running] == [0, 0]
    for name in NAMES:
        built = [n["built"] for report in reports for n in report["networks"] if n["name"] == name]
        assert sorted(built) == [False, True]
    for name in NAMES:
        open_plan(Bundle.open(bundle), TARGET, name).open_verified().close()


def test_ctrl_c_in_the_middle_cancels_the_build(bundle: Path) -> None:
    def interrupt(_network: str, _phase: str, _share: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(bundle, PROJECTION, progress=interrupt)
    assert names_in(bundle) == set()


def test_progress_goes_from_nothing_to_done_per_network(bundle: Path) -> None:
    reported: dict[str, list[float]] = {}
    phases = set()

    def progress(network: str, phase: str, share: float) -> None:
        reported.setdefault(network, []).append(share)
        phases.add(phase)

    build(bundle, progress=progress)
    assert list(reported) == NAMES
    for shares in reported.values():
        assert shares == sorted(shares)
        assert 0 <= shares[0] <= 1
        assert shares[-1] == 1
        assert len(shares) > 5
    assert any("Building" in phase or "Compil" in phase or "Parsing" in phase for phase in phases), phases


def test_the_log_has_what_tensorrt_said(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "build.log"
    assert main(["build", str(bundle), "--target", TARGET, "--log", str(log), "--json"]) == 0
    text = log.read_text()
    assert text.count("Total Activation Memory") == 2
    assert "[VERBOSE]" in text
    networks = json.loads(capsys.readouterr().out)["networks"]
    assert [n["name"] for n in networks] == NAMES
    assert all(n["built"] and n["plan_bytes"] > 0 and n["activation_bytes"][0] > 0 for n in networks)


def test_a_log_that_cannot_be_written_is_one_message_and_the_plan_is_kept(bundle: Path, capsys) -> None:
    assert main(["build", str(bundle), "--target", TARGET, "--only", NAMES[0], "--log", "/dev/full"]) == 1
    err = capsys.readouterr().err
    assert "/dev/full cannot be written\nFound: No space left on device" in err
    assert build(bundle, PROJECTION)[0].reason is None


def test_the_table_says_what_was_built_and_nothing_else_in_a_pipe(bundle: Path, capfd) -> None:
    assert main(["build", str(bundle), "--target", TARGET]) == 0
    assert main(["build", str(bundle), "--target", TARGET]) == 0
    out, err = capfd.readouterr()
    assert out.count("built") == 2
    assert out.count("still valid") == 2
    assert err == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--slots", "1:1:9"], "accept 1 to 4"),
        (["--sizes", "512x512"], "exported for pictures of 64x64 to 256x192"),
        (["--only", "unet"], "--only unet"),
        (["--only", "nonsense"], "there is no network of this name"),
        (["--timing-cache", "x"], "TensorRT-RTX has no option timing_cache"),
        (["--version-compatible"], "TensorRT-RTX has no option version_compatible"),
        (["--hardware-compatibility", "ampere_plus"], "TensorRT-RTX has no option hardware_compatibility"),
        (["--compute", "9.9"], "cannot build for compute capability 9.9"),
        (["--fp32-attention"], "TensorRT-RTX has no option fp32_attention"),
        (["--optimization-level", "7"], "from 0 to 5"),
        (["--aux-streams", "-1"], "0 or more"),
        (["--slots", "4:1:1"], "MIN <= OPT <= MAX"),
        (["--log", "/proc/nowhere/log"], "/proc/nowhere/log cannot be written"),
    ],
)
def test_mistakes_on_the_command_line_are_one_message(bundle: Path, arguments, message, capsys) -> None:
    assert main(["build", str(bundle), "--target", TARGET, *arguments]) == 1
    err = capsys.readouterr().err
    assert err.startswith("instantrt build: ")
    assert message in err
    assert "\nFound: " in err
    assert "\nTo do: " in err
    assert "Traceback" not in err


def test_missing_and_foreign_wheels_are_one_message(bundle: Path, capsys, monkeypatch) -> None:
    assert main(["build", str(bundle), "--target", "onnxruntime"]) == 1
    assert "nothing to build" in capsys.readouterr().err
    monkeypatch.setattr(flavours, "rtx_library_version", lambda: "1.5.0.1")
    assert main(["build", str(bundle), "--target", TARGET]) == 1
    assert "do not belong together" in capsys.readouterr().err


def test_weights_stripped_without_a_gpu_fail_in_tensorrts_words(bundle: Path) -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("there is a GPU")
    with pytest.raises(BuildError, match="could not build image_projection") as error:
        build(bundle, replace(PROJECTION, options=BuildOptions(strip_weights=True)))
    assert "cudaError 35" not in str(error.value)
    assert "CUDA" in str(error.value)
    assert "strip_weights needs a machine with a GPU" in str(error.value)


def test_external_weights_are_found_beside_the_graph(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle", {"control_embedding": control()})
    inside = build(folder)[0].record.weight_bytes
    proto = projection(seed=3)
    (folder / "onnx/control_embedding.onnx").unlink()
    onnx.save(
        proto,
        folder / "onnx/image_projection.onnx",
        save_as_external_data=True,
        location="image_projection.onnx.data",
        size_threshold=1024,
    )
    external = Bundle.open(_rewritten(folder, "image_projection"))
    (result,) = list(build_plans(external, PROJECTION))
    assert set(result.record.identity.onnx) == {"onnx/image_projection.onnx", "onnx/image_projection.onnx.data"}
    assert result.record.weight_bytes > 2 * DIMS.face_embedding_width * DIMS.face_tokens * DIMS.token_width * 0.9
    assert result.record.weight_bytes != inside


def _rewritten(folder: Path, name: str) -> Path:
    from instantrt.bundle import read_manifest, write_manifest

    manifest = replace(read_manifest(folder), networks={name: f"onnx/{name}.onnx"}, files={})
    write_manifest(folder, manifest)
    return folder


def test_a_bundle_altered_after_export_is_not_built(bundle: Path) -> None:
    path = bundle / "onnx/image_projection.onnx"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match="was altered"):
        build(bundle, PROJECTION)


def test_a_slow_graph_is_refused_unless_allowed(tmp_path: Path) -> None:
    proto = projection()
    island = [
        helper.make_node("Cast", ["flat"], ["f"], to=FLOAT),
        helper.make_node("Softmax", ["f"], ["p"], name="wide_softmax"),
        helper.make_node("Cast", ["p"], ["h"], to=HALF),
        helper.make_node("Mul", ["h", "h"], ["squared"]),
    ]
    reshape = proto.graph.node.pop()
    reshape.input[0] = "squared"
    proto.graph.node.extend([*island, reshape])
    folder = write_bundle(tmp_path / "bundle", {"image_projection": proto})
    with pytest.raises(Exception, match="wide_softmax"):
        build(folder, PROJECTION)
    assert build(folder, replace(PROJECTION, allow_slow=True))[0].record.file.bytes > 0


def test_networks_with_fp32_products_are_refused_for_7_5_before_anything_is_built(tmp_path: Path) -> None:
    """The builder says "FP32 GEMM is not supported" of Turing; convolutions are."""
    wide = projection()
    wide.graph.node[0].attribute[0].i = FLOAT
    wide.graph.node[2].output[0] = "wide"
    wide.graph.node.append(helper.make_node("Cast", ["wide"], ["tokens"], to=HALF))
    wide.graph.initializer[0].CopyFrom(
        weight("w", DIMS.face_embedding_width, DIMS.face_tokens * DIMS.token_width, dtype=np.float32)
    )
    wide.graph.node[1].name = "the_product"
    folder = write_bundle(tmp_path / "bundle", {"control_embedding": control(), "image_projection": wide})
    turing = BuildOptions(compute=("7.5", "8.6"))
    with pytest.raises(BuildOptionError, match=r"no fp32 matrix products for compute capability 7\.5") as error:
        build(folder, BuildRequest(TARGET, options=turing, allow_slow=True))
    assert error.value.found == "networks with some: image_projection (the_product)"
    assert "--target tensorrt" in str(error.value.hint)
    assert not (folder / "plans").exists()
    (result,) = build(folder, BuildRequest(TARGET, options=turing, only=("control_embedding",)))
    assert result.record.identity.compute == ("7.5", "8.6")
    only_ampere = BuildRequest(TARGET, options=BuildOptions(compute=("8.6",)), allow_slow=True)
    assert len(build(folder, only_ampere)) == 2


def test_datacenter_only_options_are_refused_before_anything_is_loaded(bundle: Path) -> None:
    with pytest.raises(BuildOptionError, match="TensorRT has no option compute"):
        build(bundle, BuildRequest("tensorrt", options=BuildOptions(compute=("8.6",))))
    assert not (bundle / "plans").exists()


def test_the_identity_covers_every_option() -> None:
    """A new option that changes plans must reach the identity: all but the two that are named elsewhere do."""
    asked = BuildOptions(3, "fast", 1, True, True, "ampere_plus", True, True, ("8.6",), Path("cache"))
    assert set(asked.identity) == set(BuildOptions.__dataclass_fields__) - {"compute", "timing_cache"}
    assert set(network_contracts(DIMS)) >= set(NAMES)
    assert BUILD_SUPPORT[TARGET].compute(asked) == ("8.6",)
    assert PlanRecord.__dataclass_fields__["identity"]
