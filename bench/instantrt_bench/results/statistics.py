"""Percentiles and bootstrap intervals, in plain numpy and with a fixed seed: the same samples give the same figures."""

from __future__ import annotations

from collections.abc import Hashable, Sequence, Sized
from dataclasses import asdict, dataclass
from math import comb
from typing import Any

import numpy as np
import numpy.typing as npt

Samples = Sequence[float] | npt.NDArray[np.float64]

RESAMPLES = 4000
CONFIDENCE = 0.95
SEED = 20240229


@dataclass(frozen=True)
class Interval:
    """An estimate between two bounds that hold the true value with probability ``confidence``."""

    estimate: float
    low: float
    high: float
    confidence: float
    samples: int

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def percentile(samples: Samples, percent: float) -> float:
    """Linear interpolation between the two nearest order statistics (numpy's default, Hyndman and Fan's type 7)."""
    return float(np.percentile(_checked(samples), percent))


def summarise(samples: Samples) -> dict[str, Any]:
    """n, mean, standard deviation (n - 1), min, max, p50, p90 and p99.

    Percentiles that lie beyond what the sample count can show (p99 of 20 samples is close to the largest) are still
    given; ``n`` says how much they are worth.
    """
    x = _checked(samples)
    p50, p90, p99 = (percentile(x, percent) for percent in (50, 90, 99))
    return {
        "n": len(x),
        "mean": float(x.mean()),
        "std": float(x.std(ddof=1)) if len(x) > 1 else 0.0,
        "min": float(x.min()),
        "max": float(x.max()),
        "p50": p50,
        "p90": p90,
        "p99": p99,
    }


def median_interval(samples: Samples, confidence: float = CONFIDENCE) -> Interval:
    """The median between two order statistics (Conover, Practical Nonparametric Statistics, the sign-test interval).

    Distribution-free: that at most k of n samples lie below the median has the probability of at most k heads in n
    tosses. Too few samples for the confidence give the whole range, and ``confidence`` says what that range holds.
    """
    x = np.sort(_checked(samples))
    n = len(x)
    outside, k = 2 * 0.5**n, 0  # probability that the median lies outside [x[k], x[n - 1 - k]]
    while k + 1 < (n + 1) // 2:
        wider = outside + 2 * comb(n, k + 1) * 0.5**n
        if wider > 1 - confidence:
            break
        outside, k = wider, k + 1
    return Interval(float(np.median(x)), float(x[k]), float(x[n - 1 - k]), max(0.0, 1 - outside), n)


def ratio_of_medians(
    numerator: Samples,
    denominator: Samples,
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
) -> Interval:
    """median(numerator) / median(denominator) with a percentile-bootstrap interval (Efron 1979).

    Each side is resampled on its own.

    Raises:
        ValueError: a sample is not positive.
    """
    above, below = _positive(numerator), _positive(denominator)
    rng = np.random.default_rng(SEED)
    drawn = [np.median(x[rng.integers(len(x), size=(resamples, len(x)))], axis=-1) for x in (above, below)]
    estimate = float(np.median(above) / np.median(below))
    return _percentile_interval(estimate, drawn[0] / drawn[1], confidence, min(len(above), len(below)))


def paired_ratio(
    numerator: Samples,
    denominator: Samples,
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
) -> Interval:
    """median(numerator) / median(denominator) of samples taken in pairs, with a percentile-bootstrap interval.

    Whole pairs are resampled, so what slowed down both of a pair cancels.

    Raises:
        ValueError: the counts differ, or a sample is not positive.
    """
    above, below = _positive(numerator), _positive(denominator)
    _check_pairs(above, below)
    rows = np.random.default_rng(SEED).integers(len(above), size=(resamples, len(above)))
    drawn = np.median(above[rows], axis=-1) / np.median(below[rows], axis=-1)
    return _percentile_interval(float(np.median(above) / np.median(below)), drawn, confidence, len(above))


def session_ratio(
    numerator: Sequence[Samples],
    denominator: Sequence[Samples],
    *,
    paired: bool = False,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
) -> Interval:
    """The ratio of two systems that were measured in several sessions each, say in processes started anew.

    Each session's median counts once: the estimate is the ratio of their geometric means. The interval is a two-stage
    bootstrap (Davison and Hinkley, Bootstrap Methods, 3.8): sessions are drawn, then samples within each, because
    samples of one session resemble each other more than those of another.

    Args:
        numerator: one list of samples per session.
        denominator: likewise; neither the sessions nor the samples need to be as many.
        paired: session i of the one ran next to session i of the other. They are then drawn together, so what slowed
            both down cancels.
        confidence: of the interval.
        resamples: how many.

    Raises:
        ValueError: a sample is not positive, there is no session, or not as many where they are paired.
    """
    rng = np.random.default_rng(SEED)
    sides = [[_positive(samples) for samples in sessions] for sessions in (numerator, denominator)]
    if not all(sides):
        raise ValueError("a ratio needs at least one session on each side")
    chosen = [rng.integers(len(side), size=(resamples, len(side))) for side in sides]
    if paired:
        _check_pairs(*sides)
        chosen[1] = chosen[0]
    above, below = (np.mean([np.log(np.median(samples)) for samples in side]) for side in sides)
    drawn = [_drawn_log_medians(side, places, rng) for side, places in zip(sides, chosen, strict=True)]
    count = min(sum(map(len, side)) for side in sides)
    return _percentile_interval(float(np.exp(above - below)), np.exp(drawn[0] - drawn[1]), confidence, count)


def paired_mean_difference(
    a: Samples,
    b: Samples,
    *,
    clusters: Sequence[Hashable] | None = None,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
) -> Interval:
    """mean(a - b) of paired samples with a percentile-bootstrap interval.

    Args:
        a: n numbers.
        b: n numbers, b[i] belongs to a[i].
        clusters: n keys; pairs of one key (say, of one photo) are not independent and are resampled together.
        confidence: of the interval.
        resamples: how many.

    Raises:
        ValueError: the counts differ.
    """
    x, y = _checked(a), _checked(b)
    _check_pairs(x, y)
    difference = x - y
    keys = list(range(len(x))) if clusters is None else list(clusters)
    if len(keys) != len(x):
        raise ValueError(f"{len(keys)} cluster keys for {len(x)} pairs")
    order = {key: index for index, key in enumerate(dict.fromkeys(keys))}
    index = np.array([order[key] for key in keys])
    sums, counts = np.bincount(index, weights=difference), np.bincount(index)
    rows = np.random.default_rng(SEED).integers(len(order), size=(resamples, len(order)))
    drawn = sums[rows].sum(axis=-1) / counts[rows].sum(axis=-1)
    return _percentile_interval(float(difference.mean()), drawn, confidence, len(x))


def _drawn_log_medians(
    sessions: Sequence[npt.NDArray[np.float64]], chosen: npt.NDArray[np.int64], rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Of each resample, the mean over its sessions of the logarithm of their medians: f64 [resamples].

    ``chosen`` [resamples, sessions] holds the numbers of the sessions that each resample has drawn.
    """
    medians = np.empty(chosen.shape)
    for number, x in enumerate(sessions):
        places = chosen == number  # every session that was drawn is resampled anew
        medians[places] = np.median(x[rng.integers(len(x), size=(places.sum(), len(x)))], axis=-1)
    drawn: npt.NDArray[np.float64] = np.log(medians).mean(axis=1)
    return drawn


def _percentile_interval(estimate: float, drawn: npt.NDArray[np.float64], confidence: float, samples: int) -> Interval:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}")
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(estimate, float(low), float(high), confidence, samples)


def _checked(samples: Samples) -> npt.NDArray[np.float64]:
    x = np.asarray(samples, np.float64)
    if x.ndim != 1 or not len(x):
        raise ValueError(f"samples must be a list of at least one number, not of shape {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError("a sample is not a finite number")
    return x


def _positive(samples: Samples) -> npt.NDArray[np.float64]:
    x = _checked(samples)
    if (x <= 0).any():
        raise ValueError("a ratio needs positive samples")
    return x


def _check_pairs(a: Sized, b: Sized) -> None:
    if len(a) != len(b):
        raise ValueError(f"there must be pairs, not {len(a)} and {len(b)}")
