"""The peak of this process's memory."""

from __future__ import annotations

import pytest

from instantrt_bench.latency.host_memory import forget_peak, peak_bytes

BLOCK = 64 * 2**20


def test_the_peak_holds_what_was_used_and_can_be_forgotten() -> None:
    if not forget_peak():
        pytest.skip("the system does not forget peaks")
    before = peak_bytes()
    block = bytearray(b"x" * 1) * BLOCK
    assert peak_bytes() >= before + 0.9 * BLOCK
    del block
    assert peak_bytes() >= before + 0.9 * BLOCK
    assert forget_peak()
    assert peak_bytes() < before + 0.5 * BLOCK
