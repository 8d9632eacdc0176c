import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parc.scores.linalg import standardize
from parc.scores.pca import parse_pca, principal, reduce
from plm_core.errors import InputError

GOLDENS = ("scores_n500_d64_c5", "scores_n500_d512_c50", "scores_n200_d300_c10_wide")


def sample(n, d, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((n, d)) * rng.uniform(0.1, 3, d) + rng.standard_normal(d)).astype(dtype)


@pytest.mark.parametrize("name", GOLDENS)
def test_published_recipe(golden, name):
    case = golden(name)
    ours = np.abs(reduce(case.inputs["features"], "compat:32")[:8])
    np.testing.assert_allclose(ours, case.outputs["pca32_abs"], atol=1e-3)


@pytest.mark.parametrize(("n", "d"), [(120, 40), (40, 120)])
def test_published_recipe_is_that_of_scikit_learn(n, d):
    from sklearn.decomposition import PCA

    x = sample(n, d)
    theirs = PCA(8, svd_solver="randomized", random_state=1919, iterated_power=1).fit_transform(x)
    np.testing.assert_allclose(reduce(x, "compat:8"), theirs, atol=1e-8)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(3, 40), d=st.integers(2, 40), seed=st.integers(0, 10**6))
def test_exact_components_are_those_of_the_svd(n, d, seed):
    x = sample(n, d, seed)
    count = min(n - 1, d)
    u, s, vt = np.linalg.svd(x - x.mean(0), full_matrices=False)
    signs = np.sign(vt[np.arange(len(vt)), np.abs(vt).argmax(1)])
    np.testing.assert_allclose(reduce(x, count), (u * s * signs)[:, :count], atol=1e-5 * s[0])


def test_more_components_than_images_are_as_many_as_images():
    x = sample(10, 30)
    assert reduce(x, 32).shape == reduce(x, "compat:32").shape == (10, 10)
    np.testing.assert_array_equal(reduce(x, 32)[:, 9], 0)  # centred, so of rank 9: noise would be scaled up later


@pytest.mark.parametrize("pca", [65, "compat:65"])
def test_more_components_than_dimensions(pca):
    with pytest.raises(InputError, match=r"pca=.*65'? asks for more than the 64 dimensions"):
        reduce(sample(100, 64), pca)


@pytest.mark.parametrize("pca", [0, -1, "x", "compat:", "compat:0", True, 1.5, ""])
def test_forms_that_are_refused(pca):
    with pytest.raises(InputError, match="a number from 1, 'compat:<number>' or None"):
        reduce(sample(10, 5), pca)


def test_forms():
    assert (parse_pca(32), parse_pca("32"), parse_pca("compat:16")) == ((32, False), (32, False), (16, True))
    x = sample(10, 5)
    assert reduce(x, None) is x


@pytest.mark.parametrize("pca", [4, "compat:4"])
def test_type_is_kept_and_input_unchanged(pca):
    x = sample(30, 6, dtype=np.float32)
    before = x.copy()
    assert reduce(x, pca).dtype == np.float32
    np.testing.assert_array_equal(x, before)


def test_shift_and_permutation_of_columns_change_nothing():
    x = sample(30, 12)
    for other in (x + 100, x[:, ::-1]):
        np.testing.assert_allclose(reduce(other, 5), reduce(x, 5), atol=1e-9)


@pytest.mark.parametrize(("n", "d"), [(50, 20), (20, 50)])
def test_variances(n, d):
    scores, variances = principal(sample(n, d))
    np.testing.assert_allclose(scores.var(0), variances, atol=1e-10)
    np.testing.assert_allclose(variances.sum(), sample(n, d).var(0).sum())


@settings(max_examples=20, deadline=None)
@given(n=st.integers(2, 30), d=st.integers(1, 600), seed=st.integers(0, 10**6))
def test_standardized_columns(n, d, seed):
    x = sample(n, d, seed)
    np.testing.assert_allclose(standardize(x), (x - x.mean(0)) / x.std(0), atol=1e-9)


def test_constant_columns_become_zeros():
    x = sample(50, 4)
    x[:, 1], x[:, 3] = 0.1, 1e9 / 3
    z = standardize(x)
    np.testing.assert_array_equal(z[:, [1, 3]], 0)
    np.testing.assert_allclose(z[:, [0, 2]].std(0), 1)
