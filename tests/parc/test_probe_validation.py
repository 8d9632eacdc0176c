"""Classifiers, folds, few-shot draws and intervals of a probing, against scikit-learn and scipy."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from scipy.stats import binomtest, t
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from parc.probing.accuracy import accuracy, wilson
from parc.probing.classifiers import GRID, parse_classifier
from parc.probing.validation import DRAWS, Folds, cross_validate, judged
from plm_core.errors import InputError, UnknownName

CLASSES = tuple("0123456789")


@pytest.fixture(scope="module")
def pool():
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture(scope="module")
def digits():
    """Return pixels of 150 handwritten digits, some of them in other units, and their labels."""
    data = load_digits()
    scale = np.geomspace(0.01, 100, data.data.shape[1])
    return (data.data[:150] * scale).astype(np.float32), data.target[:150]


LOGISTIC = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
INNER = StratifiedKFold(3, shuffle=True, random_state=1)


@pytest.mark.parametrize(
    ("method", "model"),
    [
        ("linear", GridSearchCV(LOGISTIC, {"logisticregression__C": GRID}, cv=INNER)),
        ("linear:C=0.1", make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))),
        ("knn:k=3", make_pipeline(StandardScaler(), KNeighborsClassifier(3, metric="cosine", weights="distance"))),
        ("knn:metric=euclidean", make_pipeline(StandardScaler(), KNeighborsClassifier(5, weights="distance"))),
    ],
)
def test_a_cross_validation_is_that_of_scikit_learn(method, model, digits, pool):
    features, labels = digits
    outer = StratifiedKFold(4, shuffle=True, random_state=1)
    expected = 100 * np.mean(cross_val_predict(model, features, labels, cv=outer) == labels)
    found = cross_validate(parse_classifier(method), features, Folds(labels, CLASSES, 4, seed=1), None, pool)
    assert found.value == pytest.approx(expected)
    assert found.images == 150
    assert 70 < found.value < 99


def test_what_is_judged_does_not_get_into_the_classifier(digits):
    """Neither the scales nor anything else: the other images that are judged may even be no numbers."""
    features, labels = digits
    train, test = np.arange(100), np.arange(100, 150)
    for method in ("linear", "knn"):
        classifier = parse_classifier(method)
        together = judged(classifier, features, labels, train, test, 0)
        for i in test[:3]:
            alone = np.full_like(features, np.nan)
            alone[train], alone[i] = features[train], features[i]
            assert judged(classifier, alone, labels, train, np.array([i]), 0) == together[i - 100]


def test_the_strength_follows_the_noise():
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 2
    wide = labels[:, None] * 0.3 + rng.normal(size=(120, 300))
    linear = parse_classifier("linear")
    chosen = [linear.fit(x, labels, 0).best_params_["logisticregression__C"] for x in (wide, _rotated(labels, rng))]
    assert chosen[0] < 1 < chosen[1]
    few = linear.fit(wide[:4], labels[:4], 0)  # two images of a class are too few to choose by
    assert few["logisticregression"].C == 1


def _rotated(labels, rng):
    """Two classes that differ in a direction of small variance only, which a strong penalty cannot find."""
    x = rng.normal(size=(len(labels), 2)) * (10, 0.1) + labels[:, None] * (0, 1)
    angle = np.array([[1, 1], [-1, 1]]) / np.sqrt(2)
    return x @ angle


# --- folds and draws --------------------------------------------------------------------------------------------


def test_every_image_is_judged_once_and_classes_are_even():
    labels = np.repeat([0, 1, 3], [40, 20, 10])
    folds = Folds(labels, "abcd", 5, seed=2)
    assert sorted(np.concatenate([test for _, test in folds.splits])) == list(range(70))
    for train, test in folds.splits:
        assert not set(train) & set(test)
        assert np.bincount(labels[test]).tolist() == [8, 4, 0, 2]
    other = Folds(labels, "abcd", 5, seed=3)
    assert any(not np.array_equal(a[1], b[1]) for a, b in zip(folds.splits, other.splits, strict=True))


def test_draws_have_the_same_number_of_each_class_and_grow():
    labels = np.repeat([0, 1, 3], [40, 20, 10])
    folds = Folds(labels, "abcd", 5, seed=2)
    assert folds.shots("auto") == (1, 2, 5)
    for fold, (train, _) in enumerate(folds.splits):
        few, more = folds.draws(fold, 2), folds.draws(fold, 5)
        assert len({tuple(sorted(draw)) for draw in more}) == len(more) == DRAWS
        for small, large in zip(few, more, strict=True):
            assert np.bincount(labels[small]).tolist() == [2, 2, 0, 2]
            assert set(small) < set(large) < set(train)


@pytest.mark.parametrize(
    ("counts", "folds", "shots", "said"),
    [
        ([9, 4], 5, (), "folds is 5, but class 'b' has 4 of the images; 4 folds or fewer are allowed"),
        ([9, 0, 1], 5, (), "folds is 5, but class 'c' has 1 of the images; 2 images are needed"),
        ([9, 5], 5, (1, 5), "shots is 5, but class 'b' has 4 images to learn from in 5 folds"),
    ],
)
def test_too_few_images_are_said(counts, folds, shots, said):
    with pytest.raises(InputError) as e:
        Folds(np.repeat(np.arange(len(counts)), counts), "abc"[: len(counts)], folds, 0).shots(shots)
    assert str(e.value) == said


def test_more_shots_are_better_and_all_is_the_cross_validation(digits, pool):
    features, labels = digits
    folds = Folds(labels, CLASSES, 3, seed=0)
    knn = parse_classifier("knn")
    fits = []
    scores = [cross_validate(knn, features, folds, shots, pool, lambda: fits.append(1)) for shots in (1, 3, 8, None)]
    assert [score.value for score in scores] == sorted(score.value for score in scores)
    assert len(fits) == 3 * (3 * DRAWS + 1)
    again = cross_validate(knn, features, Folds(labels, CLASSES, 3, seed=0), 3, pool)
    assert again == scores[1]


# --- intervals --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("right", "count"), [(0, 10), (7, 10), (360, 360), (1234, 5000)])
def test_wilsons_interval_is_that_of_scipy(right, count):
    expected = binomtest(right, count).proportion_ci(0.9, "wilson")
    assert wilson(right / count, count) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_an_interval_of_one_draw_is_that_of_the_images():
    folds = [np.array([[True, True, False]]), np.array([[True, False, True, True]])]
    found = accuracy(folds)
    assert (found.value, found.images) == (pytest.approx(100 * 5 / 7), 7)
    assert (found.low, found.high) == pytest.approx(tuple(100 * end for end in wilson(5 / 7, 7)))
    same = accuracy([np.repeat(fold, 3, axis=0) for fold in folds])
    assert (same.low, same.high) == pytest.approx((found.low, found.high))


def test_the_spread_of_draws_widens_the_interval():
    correct = np.zeros((3, 10), dtype=bool)
    for draw, count in enumerate([4, 5, 6]):
        correct[draw, :count] = True
    found = accuracy([correct])
    low, high = wilson(0.5, 10)
    half = t.ppf(0.95, 2) * 0.1 / np.sqrt(3)
    assert found.value == pytest.approx(50)
    assert found.high == pytest.approx(100 * (0.5 + np.hypot(high - 0.5, half)))
    assert found.low == pytest.approx(100 * (0.5 - np.hypot(0.5 - low, half)))
    two = accuracy([correct, correct])  # twice the images and twice the draws
    assert two.high - two.low < (found.high - found.low) / 1.3


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("liner", UnknownName, "no method of probing 'liner'; did you mean 'linear'?"),
        ("svm", UnknownName, "no method of probing 'svm'; there are: knn, linear"),
        ("linear:k=3", InputError, "linear takes no option 'k'; it takes C"),
        ("knn:C=3", InputError, "knn takes no option 'C'; it takes k, metric"),
        ("linear:C=0", InputError, "linear has C=0; allowed: a number above 0"),
        ("knn:k=1.5", InputError, "knn has k=1.5; allowed: a whole number from 1"),
        ("knn:metric=dot", InputError, "knn has metric='dot'; allowed: cosine, euclidean, cityblock"),
        ("knn:k", InputError, "method 'knn:k': option 'k' is not of the form key=value"),
    ],
)
def test_bad_methods_are_named(text, error, said):
    with pytest.raises(error) as e:
        parse_classifier(text)
    assert said in str(e.value)
