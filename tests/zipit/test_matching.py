"""The matchings: a slow restatement of the greedy one, SciPy's clustering, and what they must always do."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

import zipit
from plm_core import InputError
from zipit.matching import correlation


def covariance_of(seed, total, signed=True, dead=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((total, 2 * total))
    x[1:] += 0.6 * x[:-1]
    x = x if signed else np.maximum(x, 0)
    x[rng.choice(total, dead, replace=False)] = 0
    return np.atleast_2d(np.cov(x))


def slow_zipit(covariance, r, models, a, b):
    """The rule of the paper, word by word on shrinking matrices, up to where its bans leave no pair."""
    s = correlation(covariance).astype(np.float32)
    np.fill_diagonal(s, -np.inf)
    total, n = len(s), len(s) // models
    members = [[feature] for feature in range(total)]
    origin = [feature // n for feature in range(total)]
    left = int(total * (1 - r) + 1e-4)
    budget = [int((total - left) // models * b + 1e-4)] * models
    while len(members) > left:
        if s.max() == -np.inf:
            return None
        p, q = np.unravel_index(s.argmax(), s.shape)
        i, j = min(p, q), max(p, q)
        s[:, i] = np.minimum(s[:, i], s[:, j]) * np.float32(a)
        s[i] = s[:, i]
        s[i, i] = -np.inf
        s = np.delete(np.delete(s, j, 0), j, 1)
        members[i] += members.pop(j)
        same = origin[i] == origin.pop(j)
        if same:
            budget[origin[i]] -= 1
            if budget[origin[i]] <= 0:
                own = [place for place, of in enumerate(origin) if of == origin[i]]
                s[np.ix_(own, own)] = -np.inf
    groups = np.empty(total, dtype=int)
    for number, features in enumerate(members):
        groups[features] = number
    return groups


def groups_of(unmerge):
    return unmerge.argmax(1).numpy()


@pytest.mark.parametrize("models", [2, 3])
def test_groups_are_those_of_the_slow_rule(models):
    exhausted = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(2, 14))
        a, b = float(rng.choice([1e-4, 0.1, 0.3, 1])), float(rng.choice([0, 0.125, 0.5, 1]))
        covariance = covariance_of(seed, models * n, signed=seed % 2 == 0, dead=seed % 3)
        r = 1 - 1 / models
        expected = slow_zipit(covariance, r, models, a, b)
        _, unmerge = zipit.match(covariance, r, models, a=a, b=b)
        assert (unmerge.sum(1) == 1).all()
        if expected is None:
            exhausted += 1
        else:
            np.testing.assert_array_equal(groups_of(unmerge), expected, err_msg=f"seed {seed}")
    assert exhausted < 50
    assert exhausted or models == 2


def test_without_discount_and_budget_it_is_complete_linkage():
    covariance = covariance_of(0, 40)
    _, unmerge = zipit.match(covariance, a=1.0, b=1.0)
    distance = 1 - correlation(covariance)
    np.fill_diagonal(distance, 0)
    labels = fcluster(linkage(squareform(distance, checks=False), "complete"), 20, "maxclust")
    together = labels[:, None] == labels
    np.testing.assert_array_equal((unmerge @ unmerge.T).numpy() == 1, together)


def test_bans_that_leave_no_pair_are_lifted_and_the_original_loses_features():
    for seed in range(40):
        covariance = covariance_of(seed, 40)
        _, unmerge = zipit.match(covariance, 0.75, models=4)
        assert (unmerge.sum(1) == 1).all()
        assert (unmerge.sum(0) >= 1).all()
        _, lost = zipit.match(covariance, 0.75, models=4, legacy=True)
        if (lost.sum(1) == 0).any():
            break
    else:
        pytest.fail("the original's fault did not show")
    assert lost.shape == unmerge.shape


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 4), st.sampled_from(["zipit", "permute", "identity"]))
def test_every_feature_is_in_one_group_and_every_group_has_one(seed, n, models, method):
    r = 1 - 1 / models
    merge, unmerge = zipit.match(covariance_of(seed, n * models), r, models, method)
    assert merge.shape == (n, n * models)
    assert torch.equal(unmerge.sum(1), torch.ones(n * models))
    assert (unmerge.sum(0) >= 1).all()
    torch.testing.assert_close(merge.sum(1), torch.ones(n), atol=2e-5, rtol=0)
    if method != "zipit":
        assert (unmerge.view(models, n, n).sum(1) == 1).all(), "one feature of each model in each group"


def test_only_the_symmetric_part_of_a_covariance_counts():
    covariance = covariance_of(2, 600)
    odd = np.triu(np.random.default_rng(0).standard_normal(covariance.shape))
    for one, other in zip(zipit.match(covariance), zipit.match(covariance + odd - odd.T), strict=True):
        assert torch.equal(one, other)


def test_permute_is_the_best_of_all_permutations():
    from itertools import permutations

    covariance = covariance_of(3, 10)
    _, unmerge = zipit.match(covariance, method="permute")
    s = correlation(covariance)[:5, 5:]
    best = max(permutations(range(5)), key=lambda order: sum(s[order[k], k] for k in range(5)))
    assert groups_of(unmerge)[5:].tolist() == list(best)


def test_dead_features_keep_their_numbers():
    covariance = covariance_of(0, 12)
    covariance[6:] = covariance[:, 6:] = 0
    _, unmerge = zipit.match(covariance, method="permute")
    assert groups_of(unmerge)[6:].tolist() == [0, 1, 2, 3, 4, 5]


def test_kmeans_puts_equal_features_together():
    x = np.random.default_rng(0).standard_normal((6, 50))
    _, unmerge = zipit.match(np.cov(np.concatenate([x, x])), method="kmeans")
    assert (groups_of(unmerge)[:6] == groups_of(unmerge)[6:]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "zip"}, "method 'zip' is not allowed"),
        ({"models": 5}, "8 features, which is no multiple of 5 models"),
        ({"models": 0}, "models is 0; a whole number from 1 on"),
        ({"r": 1.0}, "r is 1.0; a number from 0 to below 1"),
        ({"a": -1}, "a is -1; a number from 0 to 1"),
        ({"b": 2}, "b is 2; a number from 0 to 1"),
        ({"method": "permute", "r": 0.3}, "r has to be 0.5; r leaves 5 of 8 features"),
        ({"method": "optimal", "models": 4}, "two models; models is 4"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        zipit.match(np.eye(8), **arguments)


@pytest.mark.parametrize("covariance", [np.ones((2, 3)), np.full((2, 2), np.nan), np.zeros((0, 0))])
def test_what_is_no_covariance_is_refused(covariance):
    with pytest.raises(InputError, match="covariance has"):
        zipit.match(covariance)
