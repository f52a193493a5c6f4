"""`instantrt bench latency` on systems that sleep: files after every scenario, interrupts, sessions, goals."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from doubles.bench_systems import open_sleeping
from instantrt.cli import build_parser, main
from instantrt.errors import RequestError
from instantrt.threads import usable_cpus
from instantrt_bench.latency.arguments import LatencyOptions
from instantrt_bench.latency.run import _specs, run_latency
from instantrt_bench.latency.scenario import load_scenarios
from instantrt_bench.results import files as results_module
from instantrt_bench.results.files import ResultError, read_results
from instantrt_bench.results.systems import REFERENCE_EAGER, RUNTIME_ONNXRUNTIME

ON_CPU = {"reference_device": "cpu", "reference_dtype": "fp32"}
FEW = ["--min-samples", "4", "--max-samples", "4", "--warm-up", "1", "--threads", "1"]


@pytest.fixture
def scenarios(tmp_path: Path) -> Path:
    path = tmp_path / "scenarios.json"
    entries = [{"steps": steps, "width": 64, "height": 64} for steps in (4, 5, 6)]
    path.write_text(json.dumps({"scenarios": entries}))
    return path


def bench(bundle: Path, scenarios: Path, out: Path, plan: dict[str, Any], *options: str) -> int:
    command = ["bench", "latency", str(bundle), "--checkpoint", json.dumps(plan), "--scenarios", str(scenarios)]
    args = build_parser().parse_args([*command, "--out", str(out), *FEW, *options])
    return run_latency(args.selected.parsed(args), open_sleeping)


def test_a_file_with_raw_samples_and_everything_that_says_where_they_come_from(
    nano_bundle: Path, scenarios: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "latency.json"
    plan = {RUNTIME_ONNXRUNTIME: {"ms": 5}, REFERENCE_EAGER: {"ms": 15}}
    peak = ["--peak-tflops", "0.1", "--peak-gbs", "10"]
    assert bench(nano_bundle, scenarios, out, plan, "--history", str(tmp_path / "history"), *peak) == 0
    results = read_results(out, "latency")
    assert [s.parameters["steps"] for s in results.scenarios] == [4, 5, 6]
    assert results.threads == 1
    assert results.bundle["precision"] == "fp32"
    assert results.options["min_samples"] == 4
    scenario = results.scenarios[0]
    runtime = scenario.systems[RUNTIME_ONNXRUNTIME]
    assert runtime.samples["session"] == [0] * 4
    assert len(runtime.samples["latency_ms"]) == len(runtime.samples["psnr_db"]) == 4
    assert set(runtime.samples["psnr_db"]) == {120.0}
    assert runtime.samples["ssim"] == [1.0] * 4
    summary = runtime.summary
    assert summary["latency_ms"]["n"] == 4
    assert summary["pictures_per_s"] == pytest.approx(1e3 / summary["latency_ms"]["mean"])
    assert (summary["latency_ms"]["p50"], summary["stages_ms"]["denoise"]["p50"]) == (5, 2.5)
    assert summary["cold_start_ms"]["total_ms"] > summary["cold_start_ms"]["import_ms"] > 0
    assert summary["peak_host_bytes"] > 10e6
    assert summary["peak_device_bytes"] is None
    assert summary["roofline"]["denoise"]["share_of_peak"] > 0
    assert results.scenarios[1].systems[RUNTIME_ONNXRUNTIME].summary["cold_start_ms"] is None
    ratio = results.summary["ratio_eager"][RUNTIME_ONNXRUNTIME]
    assert ratio["scenario"] == scenario.id
    assert (ratio["low"], ratio["estimate"], ratio["high"]) == pytest.approx((3, 3, 3))
    assert ratio["scenarios"] == 3
    growth = {one["system"]: one for one in results.summary["growth"]}
    assert (growth[REFERENCE_EAGER]["axis"], growth[REFERENCE_EAGER]["values"]) == ("steps", [4, 5, 6])
    assert (growth[RUNTIME_ONNXRUNTIME]["slope_ms"], growth[RUNTIME_ONNXRUNTIME]["fixed_ms"]) == (0, 5)
    assert growth[REFERENCE_EAGER]["share_of_peak"][0] > 0
    assert len(list((tmp_path / "history").iterdir())) == 1
    printed = capsys.readouterr().out
    assert all(text in printed for text in (scenario.id, RUNTIME_ONNXRUNTIME, "p99 ms", str(out)))


def test_a_file_names_device_and_dtype_of_every_system(nano_bundle: Path, scenarios: Path, tmp_path: Path) -> None:
    out, plan = tmp_path / "latency.json", {RUNTIME_ONNXRUNTIME: {"ms": 1}, REFERENCE_EAGER: {"ms": 1}}
    only = ["--only", "steps=4/"]
    assert bench(nano_bundle, scenarios, out, plan, *only, "--reference-dtype", "bf16") == 0
    results = read_results(out)
    assert results.options["reference"] == ["cpu", "bf16"]
    places = {n: (s.summary["device"], s.summary["dtype"]) for n, s in results.scenarios[0].systems.items()}
    assert places == {RUNTIME_ONNXRUNTIME: ("cpu", "fp32"), REFERENCE_EAGER: ("cpu", "bf16")}
    with pytest.raises(ResultError, match="do not belong into"):
        bench(nano_bundle, scenarios, out, plan, *only, "--append")


@pytest.mark.parametrize(
    ("systems", "options", "expected"),
    [
        (["runtime-onnxruntime", REFERENCE_EAGER], {}, {"cpu fp16"}),
        (["runtime-tensorrt", REFERENCE_EAGER], {}, {"cuda fp16"}),
        (
            ["runtime-tensorrt", REFERENCE_EAGER],
            ON_CPU,
            {"cuda fp16", "cpu fp32"},
        ),
        (["runtime-onnxruntime-cuda", "runtime-onnxruntime"], {}, {"cuda fp16", "cpu fp16"}),
        ([REFERENCE_EAGER], {"reference_device": "cuda:1"}, {"cuda:1 fp16"}),
    ],
)
def test_the_reference_runs_where_the_runtime_does_unless_asked_otherwise(
    systems: list[str], options: dict[str, str], expected: set[str]
) -> None:
    asked = LatencyOptions(bundle=Path(), checkpoint="any", systems=systems, **options)
    assert {f"{spec.device} {spec.dtype}" for spec in _specs(asked, "fp16")} == expected


def test_systems_in_bf16_are_so_whatever_the_reference_is_asked_to_be() -> None:
    systems = ["runtime-onnxruntime", "runtime-openvino-bf16", REFERENCE_EAGER, "reference-eager-bf16"]
    asked = LatencyOptions(bundle=Path(), checkpoint="any", systems=systems, reference_dtype="fp16")
    assert [spec.dtype for spec in _specs(asked, "fp32")] == ["fp32", "bf16", "fp16", "bf16"]


@pytest.mark.parametrize(
    ("systems", "dtype", "said"),
    [
        (["reference-eager-bf16"], "fp16", "changes none of these systems\nFound: reference-eager-bf16"),
        (["runtime-onnxruntime"], "fp16", "changes none of these systems"),
        (
            [REFERENCE_EAGER, "reference-eager-bf16"],
            "bf16",
            "the same\nFound: reference-eager and reference-eager-bf16",
        ),
    ],
)
def test_a_dtype_that_changes_nothing_or_that_is_there_twice_is_refused(
    systems: list[str], dtype: str, said: str
) -> None:
    options = LatencyOptions(bundle=Path(), checkpoint="any", systems=systems, reference_dtype=dtype)
    with pytest.raises(RequestError, match=said):
        _specs(options, "fp32")


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(RequestError, match="on a CPU or on an NVIDIA GPU"):
        _specs(LatencyOptions(bundle=Path(), checkpoint="any", reference_device="tpu"), "fp32")


def test_threads_beyond_the_cpus_are_capped_with_one_warning_and_recorded_as_they_were(
    nano_bundle: Path, scenarios: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, plan = tmp_path / "latency.json", {RUNTIME_ONNXRUNTIME: {"ms": 1}, REFERENCE_EAGER: {"ms": 1}}
    assert bench(nano_bundle, scenarios, out, plan, "--only", "steps=4/", "--threads", "1000") == 0
    assert read_results(out).threads == usable_cpus()
    assert capsys.readouterr().err.count(f"warning: {usable_cpus()} threads instead of 1000") == 1


@pytest.mark.parametrize("threads", ["0", "-1", "1.5", "two", "9" * 5000], ids=lambda text: text[:4])
@pytest.mark.parametrize("kind", ["latency", "fidelity", "identity", "gate"])
def test_a_number_of_threads_that_makes_no_sense_is_a_usage_error(
    kind: str, threads: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        build_parser().parse_args(["bench", kind, "--threads", threads])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert "--threads: " in error
    assert "is not a whole number from 1" in error or "expected one argument" in error  # -1 looks like an option


def test_an_interrupt_keeps_what_was_measured(nano_bundle: Path, scenarios: Path, tmp_path: Path) -> None:
    """The signal comes in the third timed run of the second scenario, from a worker that then goes on."""
    out = tmp_path / "latency.json"
    plan = {REFERENCE_EAGER: {"interrupt_parent_at": 5 + 1 + 3, "ms": 50}}
    with pytest.raises(KeyboardInterrupt):
        bench(nano_bundle, scenarios, out, plan)
    results = read_results(out)
    assert [len(s.systems) for s in results.scenarios] == [2, 2]
    first, second = (s.systems[RUNTIME_ONNXRUNTIME] for s in results.scenarios)
    assert (first.status, len(first.samples["latency_ms"])) == ("ok", 4)
    assert second.status == "interrupted"
    assert 2 <= len(second.samples["latency_ms"]) < 4


def test_a_system_that_dies_is_reported_and_comes_back_for_the_next_scenario(
    nano_bundle: Path, scenarios: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "latency.json"
    assert bench(nano_bundle, scenarios, out, {RUNTIME_ONNXRUNTIME: {"die_at": 3}}) == 0
    results = read_results(out)
    for scenario in results.scenarios:  # each gets a new worker, which dies again
        assert scenario.systems[RUNTIME_ONNXRUNTIME].status == "failed"
        assert "SIGKILL" in scenario.systems[RUNTIME_ONNXRUNTIME].error
        assert len(scenario.systems[RUNTIME_ONNXRUNTIME].samples["latency_ms"]) == 1
        assert len(scenario.systems[REFERENCE_EAGER].samples["latency_ms"]) == 4
    assert len(results.summary["failed"]) == 3
    assert "SIGKILL" in capsys.readouterr().out


def test_sessions_are_added_to_a_file_that_they_belong_into(
    nano_bundle: Path, scenarios: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "latency.json"
    monkeypatch.setattr(results_module, "commit_facts", lambda folder: {"sha": "a" * 40, "dirty": False})
    for _ in range(3):
        assert bench(nano_bundle, scenarios, out, {}, "--append", "--only", "steps=4/") == 0
    (scenario,) = read_results(out).scenarios
    samples = scenario.systems[RUNTIME_ONNXRUNTIME].samples
    assert samples["session"] == [0] * 4 + [1] * 4 + [2] * 4
    assert len(samples["latency_ms"]) == len(samples["stages_ms"]["decode"]) == 12
    assert len(samples["cold_start_ms"]) == 3
    starts = [session["started"] for session in scenario.comparison["sessions"]]
    assert starts == sorted(set(starts))
    with pytest.raises(ResultError, match="do not belong") as caught:
        bench(nano_bundle, scenarios, out, {}, "--append", "--noise", "0.5")
    assert "options" in str(caught.value)
    assert bench(nano_bundle, scenarios, out, {}, "--only", "steps=4/") == 0
    assert read_results(out).scenarios[0].systems[RUNTIME_ONNXRUNTIME].samples["session"] == [0] * 4


@pytest.mark.parametrize(
    ("goals", "status", "said"),
    [
        (["--require-ratio", "1.5"], 0, ""),
        (["--require-ratio", "9"], 3, "ratio"),
        (["--require-overhead-us", "19"], 3, "host overhead 20 us > 19 us"),
        (["--require-overhead-us", "21"], 0, ""),
    ],
)
def test_goals_set_the_exit_status(
    nano_bundle: Path,
    scenarios: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    goals: list[str],
    status: int,
    said: str,
) -> None:
    plan = {RUNTIME_ONNXRUNTIME: {"ms": 5}, REFERENCE_EAGER: {"ms": 15}}
    assert bench(nano_bundle, scenarios, tmp_path / "latency.json", plan, "--only", "steps=4/", *goals) == status
    printed = capsys.readouterr().out
    assert ("goal missed" in printed) == bool(status)
    assert said in printed


def test_a_goal_that_could_not_be_measured_is_missed(nano_bundle: Path, scenarios: Path, tmp_path: Path) -> None:
    plan = {RUNTIME_ONNXRUNTIME: {"load_error": "planted"}}
    out = tmp_path / "latency.json"
    assert bench(nano_bundle, scenarios, out, plan, "--only", "steps=4/", "--require-ratio", "1") == 3
    assert bench(nano_bundle, scenarios, out, {}, "--only", "steps=4/", "--require-ratio", "0.01") == 0
    assert (
        bench(
            nano_bundle,
            scenarios,
            out,
            {},
            "--only",
            "steps=4/",
            "--require-ratio",
            "0.01",
            "--systems",
            RUNTIME_ONNXRUNTIME,
        )
        == 3
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--scenarios", "absent"], "nano"),
        (["--only", "steps=999"], "no scenario whose id contains"),
        (["--systems", "reference-eager"], "needs the checkpoint"),
        (["--min-samples", "5", "--max-samples", "4"], "--min-samples"),
        (["--warm-up", "0"], "--warm-up"),
        (["--peak-gbs", "5"], "belong together"),
        (["--photo", "absent.jpg"], "the photo does not exist\nFound: absent.jpg"),
        (["--scenarios", "sdxl"], "exported for pictures of 64x64 to 256x256"),
    ],
)
def test_mistakes_are_one_message(
    nano_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    out = tmp_path / "latency.json"
    assert main(["bench", "latency", str(nano_bundle), "--out", str(out), *options]) == 1
    assert said in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not a set of scenarios"),
        ('{"scenarios": []}', "has no scenarios"),
        ('{"scenarios": [{"step": 4}]}', "'step'"),
        ('{"scenarios": [{"steps": 1}]}', "from 4 to 100"),
        ('{"scenarios": [{}, {"steps": 10}]}', "same scenario twice"),
        ('{"scenarios": [7]}', "not a set of scenarios"),
    ],
)
def test_wrong_scenarios_are_named(
    nano_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    path = tmp_path / "set.json"
    path.write_text(text)
    assert main(["bench", "latency", str(nano_bundle), "--scenarios", str(path)]) == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("name", ["nano", "nano-gate", "sdxl"])
def test_shipped_scenarios_are_sound_and_their_ids_name_all_parameters(name: str) -> None:
    found = load_scenarios(name)
    for scenario in found:
        assert scenario.id.startswith("e2e/")
        assert f"steps={scenario.steps}/" in scenario.id
        assert f"size={scenario.width}x{scenario.height}/" in scenario.id
    assert len({scenario.id for scenario in found}) == len(found)


def test_the_runtimes_worker_needs_no_torch() -> None:
    """Or its memory would not be that of the runtime."""
    code = (
        "import sys, instantrt_bench.latency.worker; "
        "print([m for m in ('torch', 'diffusers', 'transformers', 'onnx', 'scipy') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


@pytest.mark.timeout(300, func_only=True)
def test_the_real_systems_agree_and_are_timed(nano_bundle: Path, nano_checkpoint: Path, tmp_path: Path) -> None:
    scenarios, out = tmp_path / "set.json", tmp_path / "latency.json"
    scenarios.write_text('{"scenarios": [{"steps": 4, "width": 64, "height": 64, "samples": 2}]}')
    command = ["bench", "latency", str(nano_bundle), "--checkpoint", str(nano_checkpoint), *FEW, "--json"]
    assert main([*command, "--scenarios", str(scenarios), "--out", str(out)]) == 0
    (scenario,) = read_results(out).scenarios
    runtime, reference = (scenario.systems[name] for name in (RUNTIME_ONNXRUNTIME, REFERENCE_EAGER))
    assert (runtime.status, reference.status) == ("ok", "ok"), (runtime.error, reference.error)
    assert runtime.summary["worst_psnr_db"] > 50
    assert {"photo", "face", "text", "conditioning", "denoise", "decode", "encode"} <= runtime.summary[
        "stages_ms"
    ].keys()
    assert runtime.summary["peak_host_bytes"] < reference.summary["peak_host_bytes"]
    for system in (runtime, reference):
        # Means add up whatever else the machine does.
        latency, stages = system.summary["latency_ms"]["mean"], system.summary["stages_ms"]
        assert 0.7 * latency < sum(stage["mean"] for stage in stages.values()) < 1.1 * latency
        assert 0 < 4 * system.summary["call_ms"]["min"] < latency
