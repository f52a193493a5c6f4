"""Shares of the peak by hand, and peaks that are measured or absent."""

from __future__ import annotations

from pathlib import Path

import pytest

from instantrt import Bundle
from instantrt_bench.latency.roofline import Peak, Roofline, gpu_peak, measured_cpu_peaks, stage_costs
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
    assert measured_cpu_peaks([], 1) == {}
    measured = measured_cpu_peaks(["bf16", "fp32", "bf16"], 1)
    assert list(measured) == ["bf16", "fp32"]
    for dtype, peak in measured.items():
        assert 1e-3 < peak.tflops < 100
        assert 0.1 < peak.gbs < 5000
        assert f"measured: torch's {dtype} product" in peak.source


def test_costs_follow_the_scenario(nano_bundle: Path) -> None:
    bundle = Bundle.open(nano_bundle)
    small, double, guided_off, large = (
        stage_costs(bundle, Scenario(**changes), batch, "fp32")["denoise"].flops
        for changes, batch in (({}, 1), ({}, 2), ({"guidance_scale": 1.0}, 1), ({"width": 256, "height": 256}, 1))
    )
    assert small > 1e6
    assert double == pytest.approx(2 * small, rel=0.01)
    assert guided_off == pytest.approx(small / 2, rel=0.02)
    assert large > 3.9 * small


def test_numbers_of_two_bytes_move_half_as_much(nano_bundle: Path) -> None:
    bundle = Bundle.open(nano_bundle)
    whole, half = (stage_costs(bundle, Scenario(), 1, dtype)["decode"] for dtype in ("fp32", "bf16"))
    assert (half.flops, half.bytes) == (whole.flops, pytest.approx(whole.bytes / 2, abs=1))
