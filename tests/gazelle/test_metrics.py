"""The metrics are the original's and sklearn's, for one person and for many, and much faster."""

import json
import math
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors import safe_open
from sklearn.metrics import average_precision_score, roc_auc_score

from gazelle import metrics
from gazelle.metrics.ranks import FEW, auc
from plm_core import InputError

GOLDEN = safe_open(Path(__file__).parent / "goldens" / "metrics.safetensors", "pt")
CASES = json.loads(GOLDEN.metadata()["cases"])
close = pytest.approx


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def slow_gazefollow(heatmap, gazex, gazey, height, width):
    """GazeFollow's AUC as published: a label for every pixel of the picture, and sklearn."""
    labels = np.zeros((height, width))
    for x, y in zip(gazex, gazey, strict=True):
        if x >= 0:
            labels[min(int(y * height), height - 1), min(int(x * width), width - 1)] = 1
    scores = F.interpolate(heatmap[None, None], size=(height, width), mode="bilinear")[0, 0]
    return roc_auc_score(labels.ravel(), scores.numpy().ravel())


def slow_vat(heatmap, gazex, gazey):
    """VAT's AUC as published."""
    labels = np.zeros((64, 64))
    x, y = gazex * 64, gazey * 64
    labels[max(0, int(y - 9)) : min(int(y + 10), 63), max(0, int(x - 9)) : min(int(x + 10), 63)] = 1
    return roc_auc_score(labels.ravel(), heatmap.numpy().ravel())


# --- the original ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(len(CASES["gazefollow"])))
def test_gazefollow_is_that_of_the_original(number):
    case = CASES["gazefollow"][number]
    heatmap = GOLDEN.get_tensor(f"inputs.gf_heatmap_{number}")
    result = metrics.gazefollow(heatmap, case["gazex"], case["gazey"], case["height"], case["width"])
    assert result == close((case["auc"], case["avg_l2"], case["min_l2"]), abs=1e-12)


@pytest.mark.parametrize("number", range(len(CASES["vat"])))
def test_vat_is_that_of_the_original(number):
    case = CASES["vat"][number]
    result = metrics.vat(GOLDEN.get_tensor(f"inputs.vat_heatmap_{number}"), case["gazex"], case["gazey"])
    assert result == close((case["auc"], case["l2"]), abs=1e-12)


def test_the_average_precision_is_that_of_the_original():
    case = CASES["inout"]
    assert metrics.inout_ap(case["pred"], case["gt"]) == close(case["ap"], abs=1e-12)


# --- worked examples ------------------------------------------------------------------------------------------


def test_gazefollow_by_hand():
    heatmap = torch.zeros(4, 4)
    heatmap[1, 2], heatmap[3, 0] = 1, 0.5
    _, avg_l2, min_l2 = metrics.gazefollow(heatmap, [0.6, 0.1], [0.3, 0.9], 4, 4)
    assert (avg_l2, min_l2) == close((0.380789, 0.111803), abs=1e-6)
    assert metrics.gazefollow(heatmap, [0.6], [0.3], 4, 4)[0] == 1


def test_vat_by_hand():
    heatmap = torch.zeros(64, 64)
    heatmap[32, 32] = 1
    assert metrics.vat(heatmap, 0.5, 0.5) == close((0.501385, 0), abs=1e-6)
    assert metrics.vat(heatmap, 0.6, 0.5)[1] == close(0.1)


def test_the_last_row_and_column_are_no_positives_of_vat():
    heatmap = torch.zeros(64, 64)
    heatmap[63] = heatmap[:, 63] = 1
    assert metrics.vat(heatmap, 0.99, 0.99)[0] < 0.5


def test_average_precision_by_hand():
    assert metrics.inout_ap([0.9, 0.8, 0.7, 0.1], [1, 0, 1, 1]) == close(0.805556, abs=1e-6)


def test_the_highest_cell_is_the_first_of_several():
    heatmap = torch.zeros(8, 16)
    heatmap[2, 12] = heatmap[5, 1] = 1
    assert metrics.gazefollow(heatmap, [0.75], [0.25], 8, 16)[1:] == (0, 0)


# --- sklearn --------------------------------------------------------------------------------------------------


@given(st.data(), st.integers(2, 90))
def test_areas_are_those_of_sklearn_also_with_ties(data, count):
    levels = data.draw(st.sampled_from([2, 5, 1000]))
    scores = data.draw(arrays(np.float32, count, elements=st.integers(0, levels).map(lambda n: n / 7)))
    positives = data.draw(st.integers(1, count - 1))
    places = np.random.default_rng(count).permutation(count)[:positives]
    labels = np.zeros(count)
    labels[places] = 1
    assert auc(scores, places) == close(roc_auc_score(labels, scores), abs=1e-12)


@pytest.mark.parametrize("positives", [FEW, FEW + 1])
def test_counting_and_sorting_agree_with_sklearn_on_a_large_picture(positives):
    scores = (noise(300 * 400) * 50).round().numpy()
    labels = np.zeros(len(scores))
    labels[:positives] = 1
    assert auc(scores, np.arange(positives)) == close(roc_auc_score(labels, scores), abs=1e-12)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 1)), min_size=1))
def test_average_precision_is_that_of_sklearn_also_with_ties(rows):
    scores, labels = np.array(rows).T
    if labels.any():
        assert metrics.inout_ap(scores / 7, labels) == close(average_precision_score(labels, scores / 7), abs=1e-12)
    else:
        assert math.isnan(metrics.inout_ap(scores, labels))


point = st.floats(0, 1)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(point, point), min_size=1, max_size=12), st.integers(2, 150), st.integers(2, 150))
def test_gazefollow_is_that_of_sklearn_at_any_size_of_the_picture(points, height, width):
    heatmap = (noise(64, 64, seed=height) * 20).round()
    x, y = zip(*points, strict=True)
    chosen = {(min(int(b * height), height - 1), min(int(a * width), width - 1)) for a, b in points}
    if len(chosen) < height * width:
        expected = slow_gazefollow(heatmap, x, y, height, width)
        assert metrics.gazefollow(heatmap, x, y, height, width)[0] == close(expected, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(point, point)
def test_vat_is_that_of_sklearn(x, y):
    heatmap = (noise(64, 64) * 20).round()
    assert metrics.vat(heatmap, x, y)[0] == close(slow_vat(heatmap, x, y), abs=1e-12)


# --- many rows ------------------------------------------------------------------------------------------------


def rows(count, seed=0):
    """Heatmaps, the annotators' points, as many as the place of the person in the list says, and sizes of pictures."""
    rng = np.random.default_rng(seed)
    gaze = [rng.random((2, 1 + number % 4)) for number in range(count)]
    sizes = rng.integers(5, 100, (2, count)).tolist()
    return noise(count, 64, 64), [x.tolist() for x, _ in gaze], [y.tolist() for _, y in gaze], *sizes


def test_many_rows_are_the_rows():
    heatmaps, gazex, gazey, heights, widths = rows(9)
    gazex[3][1] = gazey[3][1] = -1
    many = metrics.gazefollow_rows(heatmaps, gazex, gazey, heights, widths)
    one = [metrics.gazefollow(*row) for row in zip(heatmaps, gazex, gazey, heights, widths, strict=True)]
    np.testing.assert_allclose(many, np.transpose(one), atol=1e-15)
    first_x, first_y = ([values[0] for values in gaze] for gaze in (gazex, gazey))
    many = metrics.vat_rows(heatmaps, first_x, first_y)
    one = [metrics.vat(*row) for row in zip(heatmaps, first_x, first_y, strict=True)]
    np.testing.assert_allclose(many, np.transpose(one), atol=1e-15)


def seconds(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


@pytest.mark.parametrize("kind", ["gazefollow", "vat"])
def test_many_rows_are_much_faster_than_sklearn(kind):
    """They are at least 20 times as fast on a quiet machine; half of that here, since the machine of a test is not."""
    count, heatmaps = 1000, noise(1000, 64, 64)
    x, y = np.random.default_rng(0).random((2, count, 10 if kind == "gazefollow" else 1))
    if kind == "gazefollow":
        fast = min(seconds(lambda: metrics.gazefollow_rows(heatmaps, x, y, [64] * count, [64] * count)) for _ in "123")
        slow = min(seconds(lambda i=i: slow_gazefollow(heatmaps[i], x[i], y[i], 64, 64)) for i in range(15))
    else:
        fast = min(seconds(lambda: metrics.vat_rows(heatmaps, x[:, 0], y[:, 0])) for _ in "123")
        slow = min(seconds(lambda i=i: slow_vat(heatmaps[i], x[i, 0], y[i, 0])) for i in range(15))
    assert fast / count < slow / 10


# --- means ----------------------------------------------------------------------------------------------------


def test_means_are_over_persons_however_they_are_added():
    given_rows = rows(7)
    whole, parts = metrics.Gazefollow(), metrics.Gazefollow()
    whole.update(*given_rows)
    for start, end in ((0, 2), (2, 2), (2, 7)):
        parts.update(*(values[start:end] for values in given_rows))
    expected = np.mean(metrics.gazefollow_rows(*given_rows), 1)
    assert list(whole.compute()) == ["auc", "avg_l2", "min_l2"]
    assert list(whole.compute().values()) == close(expected.tolist())
    assert parts.compute() == close(whole.compute())


def test_vats_means_are_over_those_who_look_inside_and_its_precision_over_all():
    heatmaps, x, y = noise(4, 64, 64), [0.2, -1, 0.5, 0.9], [0.3, -1, 0.5, 0.1]
    labels, scores = [1, 0, 1, 1], [0.9, 0.8, 0.7, 0.1]
    mean = metrics.Vat()
    mean.update(heatmaps[:3], x[:3], y[:3], labels[:3], scores[:3])
    mean.update(heatmaps[3:], torch.tensor(x[3:]), torch.tensor(y[3:]), torch.tensor(labels[3:]), scores[3:])
    mean.update(heatmaps[:0], [], [], [], [])
    inside = [metrics.vat(heatmaps[i], x[i], y[i]) for i in (0, 2, 3)]
    auc_, l2 = np.mean(inside, 0)
    assert mean.compute() == close({"auc": auc_, "l2": l2, "inout_ap": 0.805556}, abs=1e-6)


def test_a_model_without_scores_has_no_average_precision():
    mean = metrics.Vat()
    mean.update(noise(1, 64, 64), [0.5], [0.5], [1])
    assert list(mean.compute()) == ["auc", "l2"]


def test_persons_without_an_area_do_not_spoil_the_mean():
    heatmaps = noise(2, 64, 64)
    mean = metrics.Gazefollow()
    mean.update(heatmaps, [[-1], [0.5]], [[-1], [0.5]], [40, 40], [50, 50])
    auc_, avg_l2, _ = metrics.gazefollow_rows(heatmaps, [[-1], [0.5]], [[-1], [0.5]], [40, 40], [50, 50])
    assert math.isnan(auc_[0])
    assert mean.compute()["auc"] == auc_[1]
    assert mean.compute()["avg_l2"] == avg_l2.mean()


def test_nothing_undefined_is_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mean = metrics.Gazefollow()
        mean.update(noise(1, 8, 8), [[-1]], [[-1]], [4], [4])
        assert math.isnan(mean.compute()["auc"])


# --- what is not allowed --------------------------------------------------------------------------------------

MAP = torch.zeros(64, 64)
BAD = MAP.clone()
BAD[3, 4] = math.nan


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.vat(torch.zeros(32, 64), 0.5, 0.5), "heatmaps are 32 x 64; .* defined for 64 x 64 only"),
        (lambda: metrics.vat(BAD, 0.5, 0.5), "heatmap has values that are not finite"),
        (lambda: metrics.vat(MAP, math.nan, 0.5), "gazex has values that are not finite"),
        (lambda: metrics.vat(MAP[0], 0.5, 0.5), r"heatmap has shape \[64\]; 2 dimensions"),
        (lambda: metrics.vat_rows(MAP[None], [0.5, 0.5], [0.5]), "gazex has 2 entries; 1 are expected"),
        (lambda: metrics.gazefollow(MAP, [0.5], [0.5, 0.5], 4, 4), "person 0 have 1 and 2 annotators"),
        (lambda: metrics.gazefollow(MAP, [], [], 4, 4), "person 0 have 0 and 0 annotators"),
        (lambda: metrics.gazefollow(MAP, ["a"], ["b"], 4, 4), "gazex is not an array of numbers"),
        (lambda: metrics.gazefollow(MAP, [0.5], [0.5], 0, 4), "heights are not all whole numbers of pixels"),
        (lambda: metrics.gazefollow(MAP, [0.5], [0.5], 4, 4.5), "widths are not all whole numbers of pixels"),
        (lambda: metrics.inout_ap([0.5], [2]), "labels are not all 0 or 1"),
        (lambda: metrics.inout_ap([0.5], [1, 0]), "of 1 and 2 people"),
        (lambda: metrics.inout_ap([], []), "scores has shape"),
        (lambda: metrics.Vat().update(MAP[None], [0.5], [0.5], [1], [0.1, 0.2]), "scores has 2 entries; 1 are"),
        (lambda: metrics.Vat().update(MAP[None], [0.5], [0.5], [3]), "labels are not all 0 or 1"),
        (lambda: metrics.Gazefollow().compute(), "no person has been added"),
        (lambda: metrics.Vat().compute(), "no person has been added"),
    ],
)
def test_arguments_are_checked(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_tensors_of_few_bits_and_arrays_are_taken():
    heatmap = noise(64, 64)
    expected = metrics.vat(heatmap, 0.5, 0.25)
    assert metrics.vat(heatmap.numpy(), np.float32(0.5), torch.tensor(0.25)) == expected
    assert metrics.vat(heatmap.bfloat16(), [0.5], [0.25]) == metrics.vat(heatmap.bfloat16().float(), 0.5, 0.25)
    assert metrics.vat(heatmap.requires_grad_(), 0.5, 0.25) == expected
