"""Figures of training cells: means, deviations, quantiles, words a cell."""

import numpy as np
import polars as pl

from luthier.data.cells import Floats
from luthier.data.text import is_spaceless


def num_words(texts: pl.Series, counts: pl.Series) -> float:
    """Return how many words a cell has on average; two letters make a word in scripts without spaces.

    >>> num_words(pl.Series(["a b", "c"]), pl.Series([1, 1])), num_words(pl.Series(["今日は良い天気"]), pl.Series([1]))
    (1.5, 3.5)
    """
    lengths = texts.str.count_matches(r"\S+").cast(pl.Float64)
    if is_spaceless(texts.head(1000).to_list()):
        lengths = texts.str.count_matches(r"\p{L}").cast(pl.Float64) / 2
    return float((lengths * counts).sum()) / max(int(counts.sum()), 1)


def knots_of(knots: Floats) -> tuple[float, ...]:
    """Return the different ones of quantiles, or none where they say no more than a minimum and a maximum."""
    different = np.unique(knots)
    return tuple(different.tolist()) if len(different) > 2 else ()


def robust_mean_and_std(values: Floats) -> tuple[float, float]:
    """Return mean and standard deviation, or where far values rule them the median and what the quartiles say of it.

    Dates such as 9999-12-31 stand for "no end" and lie thousands of years off. The quartiles of a normal distribution
    are 1.349 standard deviations apart.
    """
    mean, std = mean_and_std(values)
    low, middle, high = np.quantile(values[~np.isnan(values)], (0.25, 0.5, 0.75))
    return (float(middle), float(high - low) / 1.349) if 0 < high - low < std / 3 else (mean, std)


def quantiles(ordered: Floats, count: int) -> Floats:
    """Return `count` quantiles, evenly spaced from the least to the most, of numbers in order: values among them.

    As `numpy.quantile(ordered, …, method="inverted_cdf")`, which sorts again: Hyndman and Fan 1996, "Sample Quantiles
    in Statistical Packages", definition 1.

    >>> quantiles(np.array([1.0, 2.0, 3.0, 10.0]), 3).tolist()
    [1.0, 2.0, 10.0]
    """
    places = np.ceil(np.linspace(0, 1, count) * len(ordered) - 1).astype(np.int64)
    chosen: Floats = ordered[places.clip(0, len(ordered) - 1)]
    return chosen


def mean_and_std(values: Floats) -> tuple[float, float]:
    """Return the mean and population standard deviation of what is not NaN; the latter is 1 where it would be 0."""
    most = values.max(initial=-np.inf)
    if np.isnan(most):
        values = values[~np.isnan(values)]
        most = values.max(initial=-np.inf)
    if not len(values):
        return 0.0, 1.0
    scale = float(max(most, -values.min())) or 1.0
    if scale > 1e100 or scale < 1e-100:  # squares leave float64's range only out there
        values = values / scale
    else:
        scale = 1.0
    center = values.mean(keepdims=True)
    mean, std = float(center[0]), float(values.std(mean=center))
    if std <= 1e-13 * abs(mean):  # rounding of equal values
        return mean * scale, 1.0
    return mean * scale, std * scale
