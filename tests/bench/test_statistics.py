"""The statistics against numbers computed by hand and against scipy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from instantrt_bench.results.statistics import (
    median_interval,
    paired_mean_difference,
    paired_ratio,
    percentile,
    ratio_of_medians,
    session_ratio,
    summarise,
)
from randomness import fresh_rng

POSITIVE = st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=60)


def test_percentiles_by_hand() -> None:
    # positions (n - 1) * p: 50 % of 4 lies half-way between the second and the third, 90 % at 2.7
    assert percentile([4, 1, 3, 2], 50) == 2.5
    assert percentile([4, 1, 3, 2], 90) == pytest.approx(3.7)
    assert percentile([5], 99) == 5


def test_summary_by_hand() -> None:
    summary = summarise([2, 4, 9])
    assert summary == pytest.approx(
        {"n": 3, "mean": 5, "std": np.sqrt(13), "min": 2, "max": 9, "p50": 4, "p90": 8, "p99": 8.9}
    )
    assert summarise([3.0])["std"] == 0


@pytest.mark.parametrize(
    ("n", "ranks", "confidence"),
    [(6, (1, 6), 0.96875), (10, (2, 9), 0.978515625), (20, (6, 15), 0.958610535), (5, (1, 5), 0.9375)],
)
def test_the_medians_interval_has_the_textbooks_ranks(n: int, ranks: tuple[int, int], confidence: float) -> None:
    interval = median_interval(fresh_rng().permutation(n) + 1)
    assert (interval.low, interval.high) == ranks
    assert interval.confidence == pytest.approx(confidence)


@given(POSITIVE)
@settings(deadline=None)
def test_the_medians_interval_is_scipys_quantile_test(samples: list[float]) -> None:
    interval = median_interval(samples)
    assert interval.low <= interval.estimate <= interval.high
    n = len(samples)
    if interval.confidence < 0.95:
        assert n < 6
        return
    judge = scipy.stats.quantile_test(samples, p=0.5).confidence_interval(0.95)
    assert (interval.low, interval.high) == (judge.low, judge.high)


def test_the_ratio_of_medians_agrees_with_scipy(rng: np.random.Generator) -> None:
    above, below = rng.gamma(40, size=40), rng.gamma(20, size=31)

    def ratio(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.median(a, axis=axis) / np.median(b, axis=axis)

    ours = ratio_of_medians(above, below, resamples=20_000)
    theirs = scipy.stats.bootstrap(
        (above, below), ratio, n_resamples=20_000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    assert ours.estimate == pytest.approx(np.median(above) / np.median(below))
    width = ours.high - ours.low
    assert (ours.low, ours.high) == (
        pytest.approx(theirs.low, abs=0.1 * width),
        pytest.approx(theirs.high, abs=0.1 * width),
    )


def test_pairs_cancel_what_hits_both(rng: np.random.Generator) -> None:
    drift = rng.uniform(1, 3, size=30)  # a machine that slows down threefold at times
    below = 10 * drift * rng.uniform(0.999, 1.001, size=30)
    above = 20 * drift * rng.uniform(0.999, 1.001, size=30)
    paired, independent = paired_ratio(above, below), ratio_of_medians(above, below)
    assert paired.estimate == independent.estimate == pytest.approx(2, rel=0.02)
    assert paired.high - paired.low < 0.05 < independent.high - independent.low


def test_the_ratio_of_sessions_by_hand() -> None:
    """Sessions without spread: drawing two of [2, 8] gives the geometric means 2, 4, 4 and 8, all equally likely."""
    found = session_ratio([[2.0] * 3, [8.0] * 5], [[1.0] * 4])
    assert found.estimate == pytest.approx(4)
    assert (found.low, found.high) == (pytest.approx(2), pytest.approx(8))  # a quarter each, more than 2.5 %
    assert found.samples == 4
    # The median of each session counts once, however many samples it has: sqrt(2 * 8) / sqrt(1 * 9)
    assert session_ratio([[1, 2, 9], [8]], [[1], [9] * 40]).estimate == pytest.approx(4 / 3)


def test_the_ratio_of_sessions_agrees_with_scipy_where_one_stage_is_left(rng: np.random.Generator) -> None:
    above, below = rng.gamma(40, size=40), rng.gamma(20, size=31)

    def medians(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.median(a, axis=axis) / np.median(b, axis=axis)

    def means(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.exp(np.log(a).mean(axis=axis) - np.log(b).mean(axis=axis))

    one_session = session_ratio([above], [below], resamples=20_000)
    no_spread = session_ratio([[x] * 4 for x in above], [[x] * 4 for x in below], resamples=20_000)
    for ours, statistic in ((one_session, medians), (no_spread, means)):
        theirs = scipy.stats.bootstrap(
            (above, below), statistic, n_resamples=20_000, method="percentile", rng=np.random.default_rng(3)
        ).confidence_interval
        width = ours.high - ours.low
        assert ours.estimate == pytest.approx(statistic(above, below))
        assert (ours.low, ours.high) == (
            pytest.approx(theirs.low, abs=0.1 * width),
            pytest.approx(theirs.high, abs=0.1 * width),
        )


def test_the_ratio_of_sessions_draws_sessions_and_then_samples(rng: np.random.Generator) -> None:
    """Against the same bootstrap written as plain loops."""
    sides = [[list(rng.lognormal(rng.normal(0, 0.1), 0.1, 9)) for _ in range(5)] for _ in range(2)]

    def drawn(side: list[list[float]]) -> float:
        sessions = [side[rng.integers(len(side))] for _ in side]
        return float(np.mean([np.log(np.median(rng.choice(session, len(session)))) for session in sessions]))

    expected = np.quantile([np.exp(drawn(sides[0]) - drawn(sides[1])) for _ in range(4000)], [0.025, 0.975])
    ours = session_ratio(sides[0], sides[1], resamples=20_000)
    assert [ours.low, ours.high] == pytest.approx(expected, abs=0.1 * (ours.high - ours.low))
    blind = ratio_of_medians(np.concatenate(sides[0]), np.concatenate(sides[1]))
    assert ours.high - ours.low > blind.high - blind.low  # samples of a session are no new sessions


def test_paired_sessions_cancel_what_hits_both(rng: np.random.Generator) -> None:
    drift = rng.uniform(1, 2, size=8)  # a machine that slows down for minutes
    below, above = ([list(ms * d * rng.lognormal(0, 0.01, 12)) for d in drift] for ms in (10, 20))
    paired, independent = (session_ratio(above, below, paired=paired) for paired in (True, False))
    assert paired.estimate == independent.estimate == pytest.approx(2, rel=0.03)
    assert paired.high - paired.low < 0.08 < independent.high - independent.low


def test_paired_sessions_by_hand() -> None:
    """Without spread within: drawing two pairs of ratios 1 and 4 gives the geometric means 1, 2, 2 and 4."""
    found = session_ratio([[3.0] * 3, [8.0] * 2], [[3.0] * 2, [2.0] * 3], paired=True)
    assert (found.low, found.estimate, found.high) == pytest.approx((1, 2, 4))


def test_paired_mean_difference_by_hand_and_by_scipy(rng: np.random.Generator) -> None:
    assert paired_mean_difference([1, 2, 6], [0, 3, 3]).estimate == 1
    a, b = rng.normal(1, 1, 40), rng.normal(0, 1, 40)
    ours = paired_mean_difference(a, b, resamples=20_000)
    theirs = scipy.stats.bootstrap((a - b,), np.mean, n_resamples=20_000, method="percentile").confidence_interval
    width = ours.high - ours.low
    assert (ours.low, ours.high) == (
        pytest.approx(theirs.low, abs=0.05 * width),
        pytest.approx(theirs.high, abs=0.05 * width),
    )


def test_clusters_widen_the_interval_as_they_should(rng: np.random.Generator) -> None:
    """Ten equal pairs per cluster say no more than one: the interval is that of the clusters."""
    per_cluster = rng.normal(size=12)
    repeated, zeros = np.repeat(per_cluster, 10), np.zeros(120)
    keys = [f"photo {i}" for i in np.repeat(np.arange(12), 10)]
    clustered = paired_mean_difference(repeated, zeros, clusters=keys)
    single = paired_mean_difference(per_cluster, np.zeros(12))
    blind = paired_mean_difference(repeated, zeros)
    assert clustered.low == pytest.approx(single.low)
    assert clustered.high == pytest.approx(single.high)
    assert blind.high - blind.low < 0.5 * (clustered.high - clustered.low)


def test_intervals_hold_the_truth_as_often_as_they_say(rng: np.random.Generator) -> None:
    hits = 0
    for _ in range(400):
        above, below = rng.lognormal(0.2, 0.3, 25), rng.lognormal(0, 0.3, 25)
        interval = ratio_of_medians(above, below, resamples=400)
        hits += interval.low <= np.exp(0.2) <= interval.high
    assert 0.90 <= hits / 400 <= 0.99  # 95 % nominal; four standard errors of 400 draws are 0.044


@given(POSITIVE, POSITIVE)
@settings(max_examples=50, deadline=None)
def test_the_same_samples_give_the_same_interval(above: list[float], below: list[float]) -> None:
    first, second = (ratio_of_medians(above, below, resamples=50) for _ in range(2))
    assert first == second
    assert first.low <= first.high
    assert first.samples == min(len(above), len(below))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: summarise([]), "at least one number"),
        (lambda: summarise([[1.0]]), "shape"),
        (lambda: median_interval([1, float("nan")]), "finite"),
        (lambda: ratio_of_medians([1, 0], [1]), "positive"),
        (lambda: paired_ratio([1, 2], [1]), "pairs"),
        (lambda: session_ratio([], [[1]]), "at least one session"),
        (lambda: session_ratio([[1]], [[0]]), "positive"),
        (lambda: session_ratio([[1]], [[1], [2]], paired=True), "pairs"),
        (lambda: paired_mean_difference([1, 2], [1]), "pairs"),
        (lambda: paired_mean_difference([1, 2], [1, 2], clusters="a"), "1 cluster keys for 2"),
        (lambda: ratio_of_medians([1], [1], confidence=1), "confidence"),
    ],
)
def test_nonsense_is_refused(call, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call()
