"""Metrics of rankings, against their definitions and SciPy."""

import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from parc.benchmark import metrics
from plm_core.errors import InputError, UnknownName

NAMES = ("pearson", "spearman", "kendall", "kendall-w", "regret", "rel@1", "rel@2")
few = settings(max_examples=60, deadline=None)


@st.composite
def pairs(draw, low=2, high=12):
    n = draw(st.integers(low, high))
    # few distinct values, so that ties are common
    column = st.lists(st.integers(1, 6).map(lambda v: v / 4), min_size=n, max_size=n)
    return np.array(draw(column)), np.array(draw(column))


def scipys(name, x, y):
    from scipy import stats

    if len(set(x)) == 1 or len(set(y)) == 1:
        return np.nan
    return {
        "pearson": lambda: stats.pearsonr(x, y).statistic,
        "spearman": lambda: stats.spearmanr(x, y).statistic,
        "kendall": lambda: stats.kendalltau(x, y).statistic,
        "kendall-w": lambda: stats.weightedtau(x, y).statistic,
    }[name]()


@few
@given(pairs())
@example((np.array([1.0, 1, 1]), np.array([1.0, 2, 3])))
@example((np.array([1.0, 2]), np.array([2.0, 1])))
def test_correlations_equal_scipy(xy):
    x, y = xy
    ours = {
        "pearson": metrics.pearson,
        "spearman": metrics.spearman,
        "kendall": metrics.kendall,
        "kendall-w": metrics.weighted_kendall,
    }
    for name, function in ours.items():
        assert function(x, y) == pytest.approx(scipys(name, x, y), abs=1e-12, nan_ok=True), name


def expected_top(x, y, k):
    """Return the mean truth of the top k over all orders of the models, each sorted stably by score."""
    means = []
    for order in itertools.permutations(range(len(x))):
        chosen = sorted(order, key=lambda i: -x[i])[:k]
        means.append(np.mean(y[chosen]))
    return np.mean(means)


@few
@given(pairs(high=5), st.integers(1, 5))
def test_top_metrics_break_ties_by_chance(xy, k):
    x, y = xy
    k = min(k, len(x))
    assert metrics.relative_accuracy(x, y, k) == pytest.approx(expected_top(x, y, k) / y.max())
    assert metrics.regret(x, y) == pytest.approx(y.max() - expected_top(x, y, 1))


def test_top_metrics_by_hand():
    scores, truth = [0.9, 0.1, 0.5, 0.4], [70.0, 90.0, 80.0, 60.0]
    assert metrics.regret(scores, truth) == 20
    assert metrics.relative_accuracy(scores, truth, 1) == pytest.approx(70 / 90)
    assert metrics.relative_accuracy(scores, truth, 3) == pytest.approx(70 / 90)  # (70 + 80 + 60) / 3
    assert metrics.relative_accuracy(scores, truth, 4) == pytest.approx(75 / 90)


@few
@given(pairs(low=3, high=8), st.data())
def test_counts_are_repeated_models(xy, data):
    x, y = xy
    counts = np.array(
        data.draw(st.lists(st.integers(0, 3), min_size=len(x), max_size=len(x)).filter(lambda c: sum(c) > 1))
    )
    repeated = np.repeat(x, counts), np.repeat(y, counts)
    for name in NAMES:
        counted = metrics.find_metric(name).counted
        of_counts = counted(x, y, np.stack([np.ones(len(x)), counts]))[1]
        plain = counted(*repeated, np.ones((1, counts.sum())))[0]
        assert of_counts == pytest.approx(plain, abs=1e-12, nan_ok=True), name


@pytest.mark.parametrize("scale", [1e-200, 1e-3, 1e200, 1.7e308])
def test_correlations_hold_at_any_scale(scale):
    x, y = np.array([-1.0, 0.2, 0.5, 1.0]), np.array([1.0, 3.0, 2.0, 4.0])
    for function in (metrics.pearson, metrics.spearman, metrics.kendall, metrics.weighted_kendall):
        assert function(x * scale, y) == pytest.approx(function(x, y), abs=1e-12)


def test_constant_columns_have_no_correlation():
    constant = np.full(7, 0.1)  # its mean is rounded, so a variance would not be exactly zero
    for function in (metrics.pearson, metrics.spearman, metrics.kendall, metrics.weighted_kendall):
        assert np.isnan(function(constant, np.arange(7.0)))
        assert np.isnan(function(np.arange(7.0), constant))
    assert metrics.regret(constant, np.arange(7.0)) == 3  # as good as drawing one
    assert np.isnan(metrics.relative_accuracy(np.arange(3.0), [-1.0, -2.0, 0.0]))


def test_bootstrap_is_that_of_resampled_models():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=40)
    scores = truth + rng.normal(size=40)
    low, high = metrics.bootstrap("pearson", scores, truth, resamples=4000, seed=1)
    chosen = rng.integers(0, 40, (4000, 40))  # other draws of the same distribution
    naive = [np.corrcoef(scores[c], truth[c])[0, 1] for c in chosen]
    assert (low, high) == pytest.approx(tuple(np.quantile(naive, [0.05, 0.95])), abs=0.02)
    assert low < metrics.pearson(scores, truth) < high
    assert metrics.bootstrap("pearson", scores, truth, seed=1) == metrics.bootstrap("pearson", scores, truth, seed=1)
    assert metrics.bootstrap("pearson", scores, truth, seed=1) != metrics.bootstrap("pearson", scores, truth, seed=2)


def test_bootstrap_leaves_the_global_state_and_undefined_resamples_alone():
    before = np.random.get_state()[1].copy()
    # with two models, half of the resamples draw one model twice
    assert metrics.bootstrap("spearman", [1.0, 2.0], [1.0, 2.0], resamples=50) == pytest.approx((1, 1))
    assert np.isnan(metrics.bootstrap("spearman", [1.0, 1.0], [1.0, 2.0], resamples=50)).all()
    assert (np.random.get_state()[1] == before).all()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: metrics.pearson([1.0], [1.0]), "2 models or more"),
        (lambda: metrics.pearson([1.0, 2.0], [1.0, 2.0, 3.0]), r"\(2,\) and truth \(3,\)"),
        (lambda: metrics.spearman([1.0, np.nan], [1.0, 2.0]), "scores has 1 NaN"),
        (lambda: metrics.kendall([1.0, 2.0], [np.inf, 2.0]), "truth has 1 NaN"),
        (lambda: metrics.relative_accuracy([1.0, 2.0], [1.0, 2.0], k=3), "k is 3; 1 to 2"),
        (lambda: metrics.bootstrap("pearson", [1.0, 2.0], [1.0, 2.0], resamples=0), "resamples is 0"),
        (lambda: metrics.bootstrap("pearson", [1.0, 2.0], [1.0, 2.0], level=90), "level is 90"),
    ],
)
def test_bad_input_is_one_line(call, says):
    with pytest.raises(InputError, match=says) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_unknown_metric_says_what_is_near():
    with pytest.raises(UnknownName, match="pearson"):
        metrics.find_metric("person")
    with pytest.raises(UnknownName):
        metrics.find_metric("rel@0")
