"""Scores from simple classifiers, against the original, scikit-learn, explicit refits and slow references."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parc.scores import probing
from parc.scores.pca import reduce
from parc.scores.probing import GRID, knn, logistic, ridge_press, split_knn
from parc.scoring import Features, score_bank
from plm_core.errors import InputError, NotSupported

SCORES = (knn, split_knn, logistic, ridge_press)
FILES = ["scores_n500_d64_c5", "scores_n500_d512_c50", "scores_n200_d300_c10_wide"]
pytestmark = pytest.mark.filterwarnings("ignore:labels has .* with a single image")


def one(n=60, d=8, c=4, gap=1.0, seed=0):
    """Draw features around class centres, with interleaved classes."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % c
    return rng.normal(size=(c, d))[y] * gap + rng.normal(size=(n, d)), y


@st.composite
def problems(draw):
    n, d, c = draw(st.integers(6, 30)), draw(st.integers(1, 40)), draw(st.integers(2, 5))
    return *one(n, d, c, draw(st.floats(0, 3)), draw(st.integers(0, 2**32))), draw(st.integers(1, 5))


# The original's numbers. Its distances are float32, so one row might differ; none does


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("output", "score", "options"),
    [
        ("knn_k1", knn, {}),
        ("knn_k3", knn, {"k": 3}),
        ("knn_k1_cosine", knn, {"metric": "cosine"}),
        ("knn_k1_cityblock", knn, {"metric": "cityblock"}),
        ("knn_split50", split_knn, {}),
        ("knn_split30_k3", split_knn, {"percent_train": 0.3, "k": 3}),
        ("logistic_split50", logistic, {}),
        ("logistic_split30", logistic, {"percent_train": 0.3}),
    ],
)
def test_scores_are_the_originals(golden, name, output, score, options):
    case = golden(name)
    x, y = case.inputs["features"], case.inputs["y"]
    rows = (
        (2 if score is logistic else 1) * 100 / (len(y) * options.get("percent_train", 0.5 if score is not knn else 1))
    )
    assert score(x, y, **options) == pytest.approx(case.outputs[output][0], abs=rows + 1e-6)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("output", "score"), [("knn_k1", knn), ("knn_split50", split_knn), ("logistic_split50", logistic)]
)
def test_scores_after_the_published_reduction_are_the_originals(golden, name, output, score):
    case = golden(name)
    x, y = reduce(case.inputs["features"], "compat:32"), case.inputs["y"]
    assert score(x, y) == pytest.approx(case.outputs[f"{output}_f32"][0], abs=100 * 4 / len(y) + 1e-6)


@pytest.mark.parametrize("k", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_votes_are_the_originals(golden, k, metric):
    case = golden("knn_votes_n90_d6_c6")
    output = case.outputs[f"knn_k{k}" + ("_cosine" if metric == "cosine" else "")][0]
    # no distance is a near tie in six dimensions, so all rows must agree
    assert knn(case.inputs["features"], case.inputs["y"], k=k, metric=metric) == pytest.approx(output, abs=1e-6)


def test_multi_label_neighbours_are_the_originals(golden):
    case = golden("scores_multilabel_n200_d64_c21")
    x, y = case.inputs["features"], case.inputs["y"]
    assert knn(x, y) == pytest.approx(case.outputs["knn_k1"][0], abs=0.5)
    assert knn(reduce(x, "compat:16"), y) == pytest.approx(case.outputs["knn_k1_f16"][0], abs=0.5)


# Neighbours against a slow reference


def naive_knn(x, y, k, metric):
    from scipy.spatial.distance import cdist

    distances = cdist(x, x, metric)
    credit = []
    for i in range(len(x)):
        near = [j for j in np.argsort(distances[i], kind="stable") if j != i][:k]
        votes = np.bincount(y[near])
        right = y[near] == y[i]
        credit.append(right.mean() if votes.max() == 1 else float(votes.argmax() == y[i]))
    return 100 * np.mean(credit)


@pytest.mark.parametrize("metric", probing.METRICS)
@given(problem=problems())
@settings(max_examples=40, deadline=None)
def test_neighbours_against_a_full_sort(metric, problem):
    x, y, k = problem
    assert knn(x, y, k=k, metric=metric) == pytest.approx(naive_knn(x, y, k, metric), abs=1e-9)


def test_many_neighbours_against_a_full_sort():
    x, y = one(n=120, gap=0.3)
    for k in (probing.FEW, probing.FEW + 1, 40, 119):
        assert knn(x, y, k=k) == pytest.approx(naive_knn(x, y, k, "euclidean"), abs=1e-9)


@pytest.mark.parametrize("metric", probing.METRICS)
def test_blocks_of_distances_give_the_same(monkeypatch, metric):
    x, y = one(n=60, gap=0.5)
    whole, split = knn(x, y, k=3, metric=metric), split_knn(x, y)
    monkeypatch.setattr(probing, "BLOCK", 60 * 7)
    assert knn(x, y, k=3, metric=metric) == whole
    assert split_knn(x, y) == split


@pytest.mark.parametrize(
    ("labels", "votes", "winner"),
    [([2, 1, 1, 2], 2, 1), ([3, 2, 1], 1, 1), ([2, 2, 0], 2, 2), ([0], 1, 0), ([3, 3, 3, 0, 0], 3, 3)],
)
def test_the_most_frequent_label_wins_and_the_smallest_of_several(labels, votes, winner):
    counted = probing._votes(np.array([labels, labels]), 4)
    assert np.array_equal(counted, [[votes] * 2, [winner] * 2])


def test_all_different_votes_give_the_share_that_is_right():
    x = np.array([[0.0], [1.0], [2.1], [3.3]])
    y = np.array([0, 1, 0, 2])
    # neighbours of the rows, k = 2: {1, 2}, {0, 2}, {1, 3}, {2, 1}: labels 1 0 (half), 0 0 (wrong), 1 2 (0), 0 1 (0)
    assert knn(x, y, k=2) == pytest.approx(100 * 0.5 / 4)


def test_an_image_is_no_neighbour_of_its_duplicate_only():
    x, y = one(n=30, gap=0)
    pairs = np.repeat(x, 2, axis=0)
    for metric in probing.METRICS:
        assert knn(pairs, np.repeat(y, 2), metric=metric) == 100
        assert knn(pairs, np.tile([0, 1], 30), metric=metric) == 0


def test_rows_of_zeros_are_far_from_all_by_cosine():
    x, y = one(gap=10)
    x[0] = 0
    assert np.isfinite(knn(x, y, metric="cosine"))


def test_offsets_do_not_hurt_euclidean_neighbours():
    x, y = one(n=100, gap=0.5)
    assert knn(x + 1e6, y, k=3) == pytest.approx(knn(x, y, k=3), abs=1e-9)


# Splits against scikit-learn


@given(problems())
@settings(max_examples=30, deadline=None)
def test_split_neighbours_are_those_of_scikit_learn(problem):
    from sklearn.neighbors import KNeighborsClassifier

    x, y, k = problem
    for share in (0.5, 0.3):
        split = len(y) - int(share * len(y))
        if k > split or not 0 < split < len(y):
            continue
        model = KNeighborsClassifier(k, algorithm="brute").fit(x[:split], y[:split])
        right = (model.predict(x[split:]) == y[split:]).mean()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert split_knn(x, y, percent_train=share, k=k) == pytest.approx(100 * right)


@pytest.mark.parametrize("score", [split_knn, logistic])
def test_the_first_rows_are_learned_from_and_the_share_is_that_of_the_others(score):
    x, y = one(n=100, gap=20)
    y[70:] = (y[70:] + 1) % 4  # the last 30 are wrong
    assert score(x, y, percent_train=0.3) == 0
    assert score(x, y, percent_train=0.6) == 50
    assert score(x[::-1], y[::-1], percent_train=0.7) == 0


@pytest.mark.parametrize("score", [split_knn, logistic])
def test_sorted_images_are_interleaved(score):
    x, y = one(n=60)
    order = np.argsort(y, kind="stable")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert score(x[order], y[order]) == score(x, y) > 50
        assert score(x[:30], np.arange(30) // 15) >= 0  # nothing but class 0 would come first
    few = [0, 0, 0, 1, 1]  # the first class leaves one image of the second to learn from, so the order stays
    order = probing._interleaved(np.array(few))
    assert order.tolist() == [0, 3, 1, 4, 2]
    assert np.array_equal(probing._split(np.eye(5), few, 0.2)[0], np.eye(5))
    assert np.array_equal(probing._split(np.eye(5), few, 0.4)[0], np.eye(5)[order])


@pytest.mark.parametrize("score", [split_knn, logistic])
def test_classes_that_cannot_be_learned_are_warned_about(score):
    x, y = one(n=8, c=4)
    with pytest.warns(UserWarning, match="4 of 6 tested images are of classes without an image to learn from"):
        score(x, y, percent_train=0.75)


def test_logistic_on_features_too_small_for_its_recipe_is_warned_about():
    x, y = one(n=400, d=64, c=8, gap=0.7)
    with pytest.warns(
        UserWarning, match="logistic has learned nothing: the published recipe stops before its first step"
    ):
        assert logistic(x / 10, y) == pytest.approx(12.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert logistic(x, y) > 90


def test_intervals_of_split_scores_on_sorted_images_hold_the_score():
    x, y = one(n=120)
    order = np.argsort(y, kind="stable")
    for row in score_bank({"m": Features(x[order])}, y[order], ["split-knn", "logistic"], bootstraps=10):
        assert 0 < row.low <= row.score <= row.high


# Ridge against refits


def naive_ridge(x, targets, ridge):
    """Predict every row by a fit on all others, with an intercept and a ridge penalty on the weights."""
    out = np.empty_like(targets)
    for i in range(len(x)):
        rest, y = np.delete(x, i, 0), np.delete(targets, i, 0)
        middle, mean = rest.mean(0), y.mean(0)
        design = rest - middle
        weights = np.linalg.solve(design.T @ design + ridge * np.eye(x.shape[1]), design.T @ (y - mean))
        out[i] = mean + (x[i] - middle) @ weights
    return out


def naive_ridge_press(x, targets, y=None):
    total = ((x - x.mean(0)) ** 2).sum()
    fits = [naive_ridge(x, targets, g * total) for g in GRID]
    best = fits[int(np.argmin([((targets - f) ** 2).sum() for f in fits]))]
    others = np.stack([np.delete(targets, i, 0).mean(0) for i in range(len(x))])
    if y is not None:
        return 100 * np.mean(np.argmax(best - others + targets.mean(0), 1) == y)
    return 100 * np.mean(1 - ((targets - best) ** 2).sum(0) / ((targets - others) ** 2).sum(0))


@given(problems())
@settings(max_examples=25, deadline=None)
def test_ridge_for_classes_against_refits(problem):
    x, y, _ = problem
    c = y.max() + 1
    assert ridge_press(x, y) == pytest.approx(naive_ridge_press(x, np.eye(c)[y], y), abs=1e-9)


@given(problems(), st.integers(1, 3))
@settings(max_examples=25, deadline=None)
def test_ridge_for_targets_against_refits(problem, columns):
    x, _, seed = problem
    rng = np.random.default_rng(seed)
    targets = x @ rng.normal(size=(x.shape[1], columns)) + rng.normal(size=(len(x), columns))
    assert ridge_press(x, targets) == pytest.approx(naive_ridge_press(x, targets), rel=1e-4, abs=1e-4)


def test_ridge_of_a_perfect_and_of_a_useless_fit():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 5))
    assert ridge_press(x, x @ rng.normal(size=5)) == pytest.approx(100, abs=1e-3)
    assert ridge_press(x, rng.normal(size=100)) < 10


def test_ridge_of_features_without_any_use_is_near_chance():
    rng = np.random.default_rng(0)
    scores = [ridge_press(rng.normal(size=(200, 8)), np.arange(200) % 10) for _ in range(20)]
    assert 5 < np.mean(scores) < 15


def test_ridge_takes_multi_label():
    x, y = one(n=60, gap=5)
    labels = np.eye(4)[y]
    padded = np.pad(labels, [(0, 0), (1, 0)])  # a label that no image has
    assert ridge_press(x, padded) == pytest.approx(ridge_press(x, labels))
    assert 50 < ridge_press(x, labels) < 100


# Changes that leave a score unchanged


@pytest.mark.parametrize("score", [knn, ridge_press])
@given(problem=problems())
@settings(max_examples=25, deadline=None)
def test_order_of_images_and_names_of_classes_do_not_matter(score, problem):
    x, y, seed = problem
    rng = np.random.default_rng(seed)
    order, names = rng.permutation(len(y)), rng.choice(90, 6, replace=False)
    assert score(x[order], names[y[order]]) == pytest.approx(score(x, y), abs=1e-6)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("d", [8, 90])
def test_rotation_and_constant_features_do_not_matter(score, d):
    x, y = one(d=d)
    turned = x @ np.linalg.qr(np.random.default_rng(1).normal(size=(d, d)))[0]
    assert score(turned, y) == pytest.approx(score(x, y), abs=1e-6)
    assert score(np.insert(x, [0, d], 0, axis=1), y) == pytest.approx(score(x, y), abs=1e-6)


@pytest.mark.parametrize("score", SCORES)
def test_inputs_are_not_changed(score):
    x, y = one()
    before = x.copy(), y.copy()
    score(x, y)
    assert np.array_equal(x, before[0])
    assert np.array_equal(y, before[1])


@pytest.mark.parametrize("score", SCORES)
def test_separate_classes_score_higher_than_mixed_ones(score):
    for d in (6, 200):
        mixed, apart = (score(*one(n=200, d=d, gap=gap)) for gap in (0, 4))
        assert mixed < 45
        assert apart > 90


# Little and bad input


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("d", [1, 2, 4, 192])
@pytest.mark.parametrize("scale", [1e-200, 1, 1e140])
def test_four_images_of_two_classes_give_a_number(score, d, scale):
    x = np.random.default_rng(d).normal(size=(4, d)) * scale
    assert np.isfinite(score(x, np.array([0, 1, 1, 0])))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: knn(x, y, k=0), "k=0 neighbours of 59 images; 1 to 59 are allowed"),
        (lambda x, y: knn(x, y, k=60), "k=60 neighbours of 59 images"),
        (lambda x, y: knn(x, y, k=2.5), "k=2.5 neighbours of 59 images"),
        (lambda x, y: knn(x, y, metric="hamming"), "metric='hamming' is none of euclidean, cosine, cityblock"),
        (lambda x, y: split_knn(x, y, k=31), "k=31 neighbours of 30 images"),
        (lambda x, y: split_knn(x, y, percent_train=1), "percent_train=1 of 60 images tests 60; 1 to 59 must"),
        (lambda x, y: logistic(x, y, percent_train=0), "percent_train=0 of 60 images tests 0"),
        (lambda x, y: logistic(x, y, percent_train=float("nan")), "percent_train=nan"),
        (lambda x, y: logistic(x, np.arange(60) // 59), r"labels has 1 class \(0\) in the first 30 images"),
        (lambda x, y: ridge_press(x, np.zeros(60, int)), "labels has 1 class"),
        (lambda x, y: ridge_press(x, np.zeros(60)), "labels is constant"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call(*one())


def test_several_votes_on_several_labels_are_refused():
    x, y = one()
    with pytest.raises(NotSupported, match=r"knn with k=3 votes on one label an image; labels is \[60, 4\]"):
        knn(x, np.eye(4)[y], k=3)
    with pytest.raises(NotSupported, match="regression"):
        knn(x, x[:, 0])
