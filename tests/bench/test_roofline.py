"""Shares of the peak by hand, and peaks that are measured or absent."""

from __future__ import annotations

from pathlib import Path

import pytest

from instantrt import Bundle
from instantrt_bench.latency.roofline import Peak, Roofline, gpu_peak, measured_cpu_peak, stage_costs
from instantrt_bench.latency.scenario import Scenario
from instantrt_engines.cost import Cost

COST = Cost(parameters=1, weight_bytes=4, flops=2_000_000_000, bytes=100_000_000)  # 20 operations a byte


@pytest.mark.parametrize(
    ("peak", "bound", "share"),
    [
        (Peak(tflops=1, gbs=100, source=""), "compute", 0.2),  # 200 GFLOP/s of 1000: memory would allow 2000
        (Peak(tflops=1, gbs=20, source=""), "memory", 0.5),  # memory allows 400
        (None, None, None),
    ],
)
def test_shares_by_hand(peak: Peak | None, bound: str | None, share: float | None) -> None:
    found = Roofline.of(COST, 10.0, peak)
    assert (found.gflops_per_s, found.gbytes_per_s, found.flops_per_byte) == pytest.approx((200, 10, 20))
    assert found.bound == bound
    assert found.share_of_peak == (share if share is None else pytest.approx(share))
    assert found.to_json()["peak"] == (None if peak is None else {"tflops": 1, "gbs": peak.gbs, "source": ""})


def test_peaks_are_known_or_absent() -> None:
    assert gpu_peak("NVIDIA Imaginary 9000") is gpu_peak(None) is None
    assert gpu_peak("NVIDIA H200").gbs == 4800
    measured = measured_cpu_peak()
    assert 1e-3 < measured.tflops < 100
    assert 0.1 < measured.gbs < 5000
    assert "measured" in measured.source


def test_costs_follow_the_scenario(nano_bundle: Path) -> None:
    bundle = Bundle.open(nano_bundle)
    small, double, guided_off, large = (
        stage_costs(bundle, Scenario(**changes))["denoise"].flops
        for changes in ({}, {"samples": 2}, {"guidance_scale": 1.0}, {"width": 256, "height": 256})
    )
    assert small > 1e6
    assert double == pytest.approx(2 * small, rel=0.01)
    assert guided_off == pytest.approx(small / 2, rel=0.02)
    assert large > 3.9 * small
