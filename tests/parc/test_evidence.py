"""LogME against both published versions, and against the evidence in float64, maximised by SciPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from parc.scores.evidence import evidence, logme, targets_of
from plm_core.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:labels has .* with a single image")


@st.composite
def problems(draw):
    """Draw features, with fewer or more dimensions than images, and a target that depends on them."""
    n, d = draw(st.integers(8, 30)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x = rng.normal(size=(n, d)) * rng.uniform(0.3, 2, d)
    target = x @ rng.normal(size=d) * draw(st.floats(0.3, 2)) + rng.normal(size=n)
    return x, target


def density(x, target, prior, noise):
    """Return the log density of the target per image, with weights ~ N(0, 1 / prior) and noise ~ N(0, 1 / noise)."""
    covariance = x @ x.T / prior + np.eye(len(x)) / noise
    return stats.multivariate_normal(np.zeros(len(x)), covariance).logpdf(target) / len(x)


def maximised(x, target):
    """Return the highest density over both precisions: the noise in closed form, their ratio by search."""
    sigma, u = np.linalg.eigh(x @ x.T)
    squares = (u.T @ target) ** 2

    def loss(log_ratio):
        shape = 1 + np.maximum(sigma, 0) / np.exp(log_ratio)
        return np.log(2 * np.pi * (squares / shape).mean()) / 2 + 0.5 + np.log(shape).mean() / 2

    starts = np.linspace(-12, 12, 25)
    best = starts[np.argmin([loss(s) for s in starts])]
    return -optimize.minimize_scalar(loss, bounds=(best - 1, best + 1), method="bounded", options={"xatol": 1e-8}).fun


# The original's numbers


def test_logme_is_the_originals_where_features_have_full_rank(golden):
    case = golden("scores_n500_d64_c5")
    published = golden("logme_for_scores_n500_d64_c5").outputs
    score = logme(case.inputs["features"], case.inputs["y"])
    assert score == pytest.approx(published["logme_fixed_point"][0], abs=1e-7)
    assert score == pytest.approx(published["logme_icml"][0], abs=5e-5)  # which stops at 1e-2


def test_logme_with_more_dimensions_than_images_is_the_original_less_its_defect(golden):
    case = golden("scores_n200_d300_c10_wide")
    published = golden("logme_for_scores_n200_d300_c10_wide").outputs
    x, y = case.inputs["features"], case.inputs["y"]
    assert logme(x, y) == pytest.approx(published["logme_icml"][0], abs=5e-4)  # has the right term, stops at 1e-2
    result = evidence(x.astype(np.float64), targets_of(y))
    defect = (300 - 200) / 2 * np.log(result.prior) / 200
    assert (result.log + defect).mean() == pytest.approx(published["logme_fixed_point"][0], abs=1e-7)


# Slow references


@given(problems())
@settings(max_examples=60, deadline=None)
def test_evidence_is_the_density_of_the_targets(problem):
    x, target = problem
    result = evidence(x, target[:, None], steps=300, tolerance=1e-10)
    # at a fixed point the closed form is the density at these precisions, except for 1e-5 in the denominators
    assert result.log[0] == pytest.approx(density(x, target, result.prior[0], result.noise[0]), abs=1e-4)


@given(problems())
@settings(max_examples=60, deadline=None)
def test_no_number_of_steps_passes_the_highest_evidence(problem):
    x, target = problem
    highest = maximised(x, target)
    for steps in (1, 11, 300):
        assert evidence(x, target[:, None], steps=steps).log[0] <= highest + 1e-4


@given(st.integers(2, 8), st.floats(0.5, 2), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_published_steps_reach_the_highest_evidence_of_a_signal(d, gap, seed):
    # elsewhere, with as many features as images, the evidence may have two maxima and the steps find one
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(60, d))
    target = x @ rng.choice([-gap, gap], d) + rng.normal(size=60)
    assert evidence(x, target[:, None]).log[0] == pytest.approx(maximised(x, target), abs=1e-4)


def naive(x, y):
    """Run the published algorithm class by class on a full SVD, with the rank in place of the dimension."""
    n, total = len(x), []
    u, s, _ = np.linalg.svd(x)
    k = len(s)
    sigma = s**2
    for c in np.unique(y):
        target = (y == c).astype(float)
        inside = (u.T @ target)[:k] ** 2
        rest = max((target**2).sum() - inside.sum(), 0)
        a = b = 1.0
        for _ in range(11):
            ratio = a / b
            known = (sigma / (sigma + ratio)).sum()
            length = (sigma * inside / (ratio + sigma) ** 2).sum()
            residual = (inside / (1 + sigma / ratio) ** 2).sum() + rest
            a, b = known / (length + 1e-5), (n - known) / (residual + 1e-5)
            if abs(a / b - ratio) / ratio <= 1e-3:
                break
        value = k / 2 * np.log(a) + n / 2 * np.log(b) - np.log(a + b * sigma).sum() / 2
        total.append((value - b * residual / 2 - a * length / 2 - n / 2 * np.log(2 * np.pi)) / n)
    return np.mean(total)


@given(st.integers(6, 30), st.integers(1, 40), st.integers(2, 5), st.integers(0, 2**32))
@settings(max_examples=80, deadline=None)
def test_all_classes_at_once_are_one_class_after_the_other(n, d, c, seed):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % c
    x = rng.normal(size=(c, d))[y] + rng.normal(size=(n, d))
    assert logme(x, y) == pytest.approx(naive(x, y), rel=1e-6, abs=1e-6)


# Kinds of targets


def test_columns_of_targets_count_one_by_one():
    rng = np.random.default_rng(0)
    x, targets = rng.normal(size=(40, 5)), rng.normal(size=(40, 3))
    assert logme(x, targets) == pytest.approx(np.mean([logme(x, targets[:, i]) for i in range(3)]), rel=1e-12)


def test_one_hot_labels_are_classes_and_columns_that_are_constant_do_not_count():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 5)), np.arange(40) % 4
    multi_hot = np.eye(6)[y + 1]  # the first and the last column are 0
    assert logme(x, multi_hot) == pytest.approx(logme(x, y), rel=1e-12)


def test_targets_that_follow_the_features_score_higher():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 6))
    signal, noise = x @ rng.normal(size=6), rng.normal(size=80)
    scores = [logme(x, a * signal / signal.std() + (1 - a) * noise) for a in (0, 0.5, 0.9)]
    assert scores[0] < scores[1] < scores[2]
    y = np.arange(80) % 4
    assert logme(x, y) < logme(x + 2 * np.eye(6)[y], y)


# Changes that leave the score unchanged


@given(st.integers(0, 2**32), st.sampled_from([4, 30]))
@settings(max_examples=30, deadline=None)
def test_order_names_and_rotation_do_not_matter(seed, d):
    rng = np.random.default_rng(seed)
    y = np.arange(24) % 4
    x = rng.normal(size=(4, d))[y] + rng.normal(size=(24, d))
    order, names = rng.permutation(24), rng.choice(50, 4, replace=False)
    turned = x @ np.linalg.qr(rng.normal(size=(d, d)))[0]
    for other in (logme(x[order], names[y[order]]), logme(turned, y), logme(np.pad(x, [(0, 0), (1, 2)]), y)):
        assert other == pytest.approx(logme(x, y), rel=1e-6, abs=1e-7)


def test_repeated_features_have_the_rank_that_they_have():
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    x = rng.normal(size=(60, 5)) + np.eye(5)[y]
    twice = np.concatenate([x, x], 1) / np.sqrt(2)  # the same inner products
    assert logme(twice, y) == pytest.approx(logme(x, y), rel=1e-9)


# Little and bad input


@pytest.mark.parametrize("d", [1, 2, 4, 192])
@pytest.mark.parametrize("scale", [1e-200, 1e-3, 1, 1e15, 1e140])
def test_four_images_of_two_classes_give_a_number(d, scale):
    x = np.random.default_rng(d).normal(size=(4, d)) * scale
    assert np.isfinite(logme(x, np.array([0, 1, 1, 0])))
    assert np.isfinite(logme(x, np.array([0.1, 2.0, 3.0, -1.0])))


def test_classes_that_are_points_give_a_number():
    y = np.arange(40) % 4
    for d in (2, 60):
        assert np.isfinite(logme(np.random.default_rng(0).normal(size=(4, d))[y], y))


def test_bad_input_is_refused():
    x = np.random.default_rng(0).normal(size=(6, 3))
    with pytest.raises(InputError, match="labels has 1 class"):
        logme(x, np.zeros(6, int))
    with pytest.raises(InputError, match="labels is constant"):
        logme(x, np.ones(6))
    with pytest.raises(InputError, match="labels has 5 rows for 6 images"):
        logme(x, np.arange(5) % 2)
