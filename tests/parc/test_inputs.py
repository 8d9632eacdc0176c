import re
import warnings

import numpy as np
import pytest
import torch

from parc.scores import inputs
from plm_core.errors import InputError, NotSupported

X = np.arange(12, dtype=np.float32).reshape(4, 3)


def with_value(value, row=2):
    x = X.copy()
    x[row, 1] = value
    return x


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (X[0], "features is of shape [3]; [images, dimensions] is needed"),
        (X[:, :0], "features is of shape [4, 0]"),
        (X[:1], "features has 1 image; at least 2"),
        (X[:0], "features has 0 images"),
        (with_value(np.nan), "features has NaN or infinite values in 1 of 4 rows, first in row 2"),
        (with_value(-np.inf, 1), "in 1 of 4 rows, first in row 1"),
        (np.full((4, 3), 7.0), "features is constant: all 4 images have the same 3 values"),
        (X.astype(np.float64) * 1e151, "at most 1e+150 is allowed"),
        (np.array([["a", "b"], ["c", "d"]]), "features is of type <U1; numbers are needed"),
        ([[1, 2], [3]], "features is not an array: its rows differ in length"),
    ],
)
def test_features_that_are_refused(x, message):
    with pytest.raises(InputError, match=re.escape(message)):
        inputs.features_of(x)


def test_features_of_another_number():
    with pytest.raises(InputError, match="reference_features has 4 rows for 5 images"):
        inputs.features_of(X, "reference_features", 5)


@pytest.mark.parametrize(
    ("given", "dtype"),
    [(np.float16, np.float32), (np.float32, np.float32), (np.float64, np.float64), (np.int64, np.float64)],
)
def test_types_of_features(given, dtype):
    x = inputs.features_of(X.astype(given))
    assert x.dtype == dtype
    np.testing.assert_array_equal(x, X)


def test_features_as_lists_and_tensors():
    for x in (X.tolist(), torch.tensor(X), torch.tensor(X, requires_grad=True), torch.tensor(X).bfloat16()):
        np.testing.assert_array_equal(inputs.features_of(x), X)


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (lambda: torch.zeros(4, 3, device="meta"), "strided, float32, on meta"),
        (lambda: torch.tensor(X).to_sparse(), "sparse_coo, float32, on cpu"),
        (lambda: torch.quantize_per_tensor(torch.tensor(X), 0.1, 0, torch.qint8), "strided, qint8, on cpu"),
    ],
)
def test_tensors_without_plain_values(x, said):
    with pytest.raises(InputError, match=rf"features is a tensor without plain values \({said}\)"):
        inputs.features_of(x())


def test_masked_values_are_not_data():
    masked = np.ma.masked_equal(X, 7)
    with pytest.raises(InputError, match="features has masked values"):
        inputs.features_of(masked)
    np.testing.assert_array_equal(inputs.features_of(np.ma.asarray(X)), X)


def test_large_float32_features_become_float64():
    assert inputs.features_of(X * 1e20).dtype == np.float64


def test_only_rows_that_all_agree_are_constant():
    x = np.zeros((4, 3))
    x[1] = 1  # the first and the last row are equal
    assert inputs.features_of(x) is x


@pytest.mark.parametrize(
    ("y", "kind"),
    [
        ([0, 1, 2], "classes"),
        ([True, False], "classes"),
        ([0.0, 1.0], "regression"),
        ([[0, 1], [1, 1]], "multilabel"),
        ([[0.0, 1.0]], "multilabel"),
        ([[0.5, 1.0]], "regression"),
        ([[0, 2]], "regression"),
        ([[3], [1]], "classes"),
        ([[0], [1]], "classes"),
        ([[0.0], [1.0]], "regression"),
    ],
)
def test_kinds(y, kind):
    assert inputs.kind_of(y) == kind


ALL = ("classes", "multilabel", "regression")


@pytest.mark.parametrize(
    ("y", "keywords", "message"),
    [
        ([3, 3, 3, 3], {}, "labels has 1 class (3) in 4 images; at least 2 are needed"),
        ([0, 1, -1, 0], {}, "labels has -1; classes count from 0"),
        ([0, 1, 5, 0], {"num_classes": 5}, "labels has 5 for num_classes=5; 0 to 4 are allowed"),
        ([0, 1, 1], {"n": 4}, "labels has 3 rows for 4 images"),
        ([], {}, "labels is empty"),
        (np.zeros(0, int), {}, "labels is empty"),
        (["cat", "dog"], {}, "labels is of type <U3; integer classes [N]"),
        (np.zeros((2, 2, 2)), {}, "labels is of shape [2, 2, 2]"),
        ([1.0, np.nan], {"kinds": ALL}, "labels has NaN or infinite values in 1 of 2 rows"),
        ([1.5, 1.5], {"kinds": ALL}, "labels is constant: all 2 images"),
        ([[0, 1], [1, 0]], {"kinds": ALL, "num_classes": 3}, "labels has 2 columns for num_classes=3"),
    ],
)
def test_labels_that_are_refused(y, keywords, message):
    with pytest.raises(InputError, match=re.escape(message)):
        inputs.labels_of(y, **keywords)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([0.0, 1.0, 1.0], "'regression' (floats; cast classes to integers); this score takes classes"),
        ([[0, 1], [1, 0]], "'multilabel' (of shape [2, 2]); this score takes classes"),
    ],
)
def test_labels_of_a_kind_that_the_score_cannot_do(y, message):
    with pytest.raises(NotSupported, match=re.escape(message)):
        inputs.labels_of(y)


def test_labels_that_are_fine():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert inputs.labels_of([0, 4, 4, 0], 4, 5).dtype == np.int64
        assert inputs.labels_of([[0, 1], [1, 0]], kinds=ALL).dtype == np.float64
        assert inputs.labels_of([[2], [0], [2], [0]]).tolist() == [2, 0, 2, 0]
        np.testing.assert_array_equal(inputs.labels_of([0.5, 2], kinds=ALL), [0.5, 2])


@pytest.mark.parametrize("y", [[0.0, 1.0, 2.0], [[0, 3], [2, 1]]])
def test_classes_that_look_like_targets_are_warned_about(y):
    with pytest.warns(UserWarning, match="whole numbers; if they are classes, cast them to integers"):
        inputs.labels_of(y, kinds=ALL)


def test_single_images_of_a_class_are_warned_about():
    with pytest.warns(UserWarning, match="2 of 3 classes with a single image"):
        inputs.labels_of([0, 0, 1, 2])


P = np.array([[0.25, 0.75], [1, 0], [0.5, 0.5]])


@pytest.mark.parametrize(
    ("p", "message"),
    [
        (P[0], "probs is of shape [2]; [images, source classes] is needed"),
        (P[:2], "probs has 2 rows for 3 images"),
        (P * [[1], [1.01], [1]], "probs sum to 1.01 in row 1; every row must sum to 1 within 0.001"),
        (P - [[0.5, -0.5], [0, 0], [0, 0]], "probs has negative values, down to -0.25; are these logits?"),
        (P * np.nan, "probs has NaN"),
    ],
)
def test_probabilities_that_are_refused(p, message):
    with pytest.raises(InputError, match=re.escape(message)):
        inputs.probs_of(p, 3)


@pytest.mark.parametrize("p", [None, np.zeros((3, 0))])
def test_headless_model(p):
    with pytest.raises(NotSupported, match=r"leep needs probs.*a model without a trained classifier has none"):
        inputs.probs_of(p, 3, "leep")


def test_half_precision_probabilities_are_fine():
    p = np.random.default_rng(0).dirichlet(np.ones(1000), 20).astype(np.float16)
    assert inputs.probs_of(p, 20).dtype == np.float64
