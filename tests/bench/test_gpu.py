"""What is made of NVML's answers, on a stand-in for it: there may be no GPU."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from doubles.bench_systems import open_sleeping
from instantrt.errors import DeviceError
from instantrt_bench.latency.arguments import LatencyOptions
from instantrt_bench.latency.gpu import GpuMonitor, GpuReading, gpu_flags
from instantrt_bench.latency.measure import Fleet, Rules, measure
from instantrt_bench.latency.run import _specs, monitors
from instantrt_bench.latency.scenario import Requests, Scenario
from instantrt_bench.latency.summary import scenario_result
from instantrt_bench.latency.systems import SystemSpec
from instantrt_bench.results.systems import REFERENCE_EAGER, RUNTIME_ONNXRUNTIME

RUNTIME_TENSORRT = "runtime-tensorrt"


class NVMLError(Exception):
    pass


UUIDS = ("00000000-0000-0000-0000-00000000000a", "00000000-0000-0000-0000-00000000000b")  # in CUDA's order
OF_NVML = {f"GPU-{UUIDS[1]}": "gpu 1", f"MIG-{UUIDS[0]}": "mig 0"}


class FakeNvml(ModuleType):
    """A MIG instance, and a GPU whose energy counter rises by 250 mJ between two looks, that of the MIG instance by
    100 mJ. ``absent`` calls are not supported."""

    NVMLError = NVMLError

    def __init__(self, absent: tuple[str, ...] = (), reasons: int = 0, pids: tuple[int, ...] = ()) -> None:
        super().__init__("pynvml")
        self.absent, self.reasons, self.pids = absent, reasons, pids
        self.energy_mj = dict.fromkeys(OF_NVML.values(), 0)

    def __getattr__(self, name: str):
        answers = {
            "nvmlInit": lambda: None,
            "nvmlShutdown": lambda: None,
            "nvmlDeviceGetHandleByUUID": self._handle,
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

    def _handle(self, uuid: str) -> str:
        if uuid not in OF_NVML:
            raise NVMLError(uuid)
        return OF_NVML[uuid]

    def _energy(self, handle: str) -> int:
        self.energy_mj[handle] += 250 if handle == "gpu 1" else 100
        return self.energy_mj[handle]

    def _processes(self, handle: str) -> list[SimpleNamespace]:
        most = 1000 if handle == "gpu 1" else 10
        return [SimpleNamespace(pid=pid, usedGpuMemory=most + pid) for pid in self.pids]


class FakeProperties(ModuleType):
    """Two GPUs as CUDA counts them."""

    @staticmethod
    def gpu_uuid(ordinal: int) -> str:
        if ordinal >= len(UUIDS):
            raise DeviceError(f"there is no GPU {ordinal}", found="2 visible", hint="another one")
        return UUIDS[ordinal]


def monitor(monkeypatch: pytest.MonkeyPatch, nvml: FakeNvml, ordinal: int = 1) -> GpuMonitor | None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setitem(sys.modules, "instantrt.device.properties", FakeProperties("properties"))
    return GpuMonitor.open(ordinal)


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


@pytest.mark.parametrize("absent", ["nvmlInit", "nvmlDeviceGetHandleByUUID"])
def test_without_a_driver_there_is_no_monitor(monkeypatch: pytest.MonkeyPatch, absent: str) -> None:
    assert monitor(monkeypatch, FakeNvml((absent,))) is None


def test_without_such_a_gpu_there_is_no_monitor(monkeypatch: pytest.MonkeyPatch) -> None:
    assert monitor(monkeypatch, FakeNvml(), ordinal=2) is None


def test_without_the_packages_there_is_no_monitor(monkeypatch: pytest.MonkeyPatch) -> None:
    assert monitor(monkeypatch, FakeNvml()) is not None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert GpuMonitor.open(1) is None
    assert monitor(monkeypatch, FakeNvml()) is not None
    for module in [name for name in sys.modules if name.startswith("instantrt.device.")]:
        monkeypatch.delitem(sys.modules, module)
    for module in {"cuda", *(name for name in sys.modules if name.startswith("cuda."))}:  # what is loaded is found else
        monkeypatch.setitem(sys.modules, module, None)
    assert GpuMonitor.open(1) is None


def test_every_system_is_watched_on_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monitor(monkeypatch, FakeNvml())
    names = [RUNTIME_ONNXRUNTIME, RUNTIME_TENSORRT, REFERENCE_EAGER]
    asked = LatencyOptions(bundle=Path(), checkpoint="any", systems=names, reference_device="cuda:1")
    found = monitors(_specs(asked, "fp16"))
    assert {name: gpu.read().energy_mj for name, gpu in found.items()} == {RUNTIME_TENSORRT: 100, REFERENCE_EAGER: 250}
    together = LatencyOptions(bundle=Path(), checkpoint="any", systems=names, reference_device="cuda:0")
    assert len(set(map(id, monitors(_specs(together, "fp16")).values()))) == 1
    assert monitors(_specs(LatencyOptions(bundle=Path(), checkpoint="any"), "fp16")) == {}


def test_flags() -> None:
    quiet = GpuReading(1, (), {1: None})
    assert gpu_flags([quiet, GpuReading(None, (), None)], [1]) == []
    flags = gpu_flags([quiet, GpuReading(1, ("power brake",), {1: None, 5: 9, 6: 9})], [1])
    assert flags == ["the GPU's clocks were held back: power brake", "2 other process(es) used the GPU"]


def test_a_measurement_holds_energy_and_memory_of_each_systems_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nvml = FakeNvml(reasons=0x08, pids=(1,))
    gpus = {RUNTIME_TENSORRT: monitor(monkeypatch, nvml, 0), REFERENCE_EAGER: monitor(monkeypatch, nvml, 1)}
    names = (RUNTIME_TENSORRT, REFERENCE_EAGER, RUNTIME_ONNXRUNTIME)
    specs = [SystemSpec(name, tmp_path, "{}", None) for name in names]
    with Fleet(specs, open_sleeping) as fleet:
        nvml.pids = (1, fleet.worker(RUNTIME_TENSORRT)[0].pid, fleet.worker(REFERENCE_EAGER)[0].pid)
        found = measure(fleet, Scenario(steps=4), Requests(), Rules(warm_up=1, min_samples=3, max_samples=3), gpus=gpus)
    result = scenario_result(found)
    runtime, reference, on_cpu = (result.systems[name].summary for name in names)
    assert (runtime["energy_mj_per_request"], reference["energy_mj_per_request"]) == (100, 250)
    assert (runtime["peak_device_bytes"], reference["peak_device_bytes"]) == (10 + nvml.pids[1], 1000 + nvml.pids[2])
    assert (on_cpu["energy_mj_per_request"], on_cpu["peak_device_bytes"]) == (None, None)
    assert "the GPU's clocks were held back: hardware slowdown" in result.comparison["flags"]
    assert "1 other process(es) used the GPU" in result.comparison["flags"]
