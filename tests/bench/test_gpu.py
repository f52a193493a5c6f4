"""What is made of NVML's answers, on a stand-in for it: there may be no GPU."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest

from doubles.bench_systems import open_sleeping
from instantrt_bench.latency.gpu import GpuMonitor, GpuReading, gpu_flags
from instantrt_bench.latency.measure import Fleet, Rules, measure
from instantrt_bench.latency.scenario import Requests, Scenario
from instantrt_bench.latency.summary import scenario_result
from instantrt_bench.latency.systems import SystemSpec
from instantrt_bench.results.files import RUNTIME_TENSORRT


class NVMLError(Exception):
    pass


class FakeNvml(ModuleType):
    """A GPU whose energy counter rises by 250 mJ between two looks. ``absent`` calls are not supported by it."""

    NVMLError = NVMLError

    def __init__(self, absent: tuple[str, ...] = (), reasons: int = 0, pids: tuple[int, ...] = ()) -> None:
        super().__init__("pynvml")
        self.absent, self.reasons, self.pids = absent, reasons, pids
        self.energy_mj = 0

    def __getattr__(self, name: str):
        answers = {
            "nvmlInit": lambda: None,
            "nvmlShutdown": lambda: None,
            "nvmlDeviceGetHandleByIndex": lambda index: f"gpu {index}",
            "nvmlDeviceGetName": lambda handle: b"NVIDIA H200",
            "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(total=2**37),
            "nvmlSystemGetDriverVersion": lambda: "580.1",
            "nvmlDeviceGetTotalEnergyConsumption": self._energy,
            "nvmlDeviceGetCurrentClocksEventReasons": lambda handle: self.reasons,
            "nvmlDeviceGetComputeRunningProcesses": self._processes,
            "nvmlDeviceGetGraphicsRunningProcesses": lambda handle: [],
        }
        if name not in answers:
            raise AttributeError(name)

        def refused(*_: object) -> None:
            raise NVMLError(name)

        return refused if name in self.absent else answers[name]

    def _energy(self, handle: str) -> int:
        self.energy_mj += 250
        return self.energy_mj

    def _processes(self, handle: str) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=pid, usedGpuMemory=1000 + pid) for pid in self.pids]


def monitor(monkeypatch: pytest.MonkeyPatch, nvml: FakeNvml) -> GpuMonitor | None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    return GpuMonitor.open()


def test_a_gpus_facts_and_readings(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = monitor(monkeypatch, FakeNvml(reasons=0x40 | 0x04 | 0x01, pids=(7,)))
    assert gpu.facts() == {"gpu": "NVIDIA H200", "gpu_memory_bytes": 2**37, "gpu_driver": "580.1"}
    assert gpu.read() == GpuReading(250, ("power cap", "hardware thermal slowdown"), {7: 1007})
    gpu.close()


def test_what_nvml_does_not_tell_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = ("nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetMemoryInfo")
    gpu = monitor(monkeypatch, FakeNvml(absent))
    assert gpu.facts()["gpu_memory_bytes"] is None
    assert gpu.read() == GpuReading(None, (), None)


@pytest.mark.parametrize("absent", ["nvmlInit", "nvmlDeviceGetHandleByIndex"])
def test_without_a_driver_there_is_no_monitor(monkeypatch: pytest.MonkeyPatch, absent: str) -> None:
    assert monitor(monkeypatch, FakeNvml((absent,))) is None


def test_without_the_package_there_is_no_monitor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert GpuMonitor.open() is None


def test_flags() -> None:
    quiet = GpuReading(1, (), {1: None})
    assert gpu_flags([quiet, GpuReading(None, (), None)], [1]) == []
    flags = gpu_flags([quiet, GpuReading(1, ("power brake",), {1: None, 5: 9, 6: 9})], [1])
    assert flags == ["the GPU's clocks were held back: power brake", "2 other process(es) used the GPU"]


def test_a_measurement_on_a_gpu_holds_energy_and_flags(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    gpu = monitor(monkeypatch, FakeNvml(reasons=0x08, pids=(1,)))
    with Fleet([SystemSpec(RUNTIME_TENSORRT, tmp_path, "{}", None)], open_sleeping) as fleet:
        found = measure(fleet, Scenario(steps=4), Requests(), Rules(warm_up=1, min_samples=3, max_samples=3), gpu=gpu)
    result = scenario_result(found)
    assert result.systems[RUNTIME_TENSORRT].summary["energy_mj_per_request"] == 250
    assert result.systems[RUNTIME_TENSORRT].summary["peak_device_bytes"] is None  # NVML lists another process only
    assert "the GPU's clocks were held back: hardware slowdown" in result.comparison["flags"]
    assert "1 other process(es) used the GPU" in result.comparison["flags"]
