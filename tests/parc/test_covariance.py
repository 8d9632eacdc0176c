"""Scores from covariances, against the original and against slow float64 references written from the definitions."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg, special

from parc.scores import covariance
from parc.scores.covariance import gbc, hscore, hscore_shrunk, lda_loo, sfda, transrate
from parc.scores.linalg import centred, compact, ledoit_wolf, spectrum
from parc.scores.pca import reduce
from plm_core.errors import InputError, NotSupported

SCORES = (hscore, hscore_shrunk, lda_loo, sfda, gbc, transrate)
pytestmark = [
    pytest.mark.filterwarnings("ignore:.* it needs more images than dimensions"),
    pytest.mark.filterwarnings("ignore:labels has .* with a single image"),
]


@st.composite
def problems(draw, low=6, high=40, wide=50):
    """Draw features around class centres, and their labels. Each of the 2 to 5 classes has at least one image."""
    n, d, c = draw(st.integers(low, high)), draw(st.integers(1, wide)), draw(st.integers(2, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    y = rng.permutation(np.concatenate([np.arange(c), rng.integers(0, c, n - c)]))
    x = rng.normal(size=(c, d))[y] * draw(st.floats(0, 3)) + rng.normal(size=(n, d)) * rng.uniform(0.2, 2, d)
    return x, y


def one(n=60, d=8, c=4, gap=1.0, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % c)
    return rng.normal(size=(c, d))[y] * gap + rng.normal(size=(n, d)), y


def by_class(x, y):
    return [x[y == c] for c in np.unique(y)]


# The original's numbers


@pytest.mark.parametrize("name", ["scores_n500_d64_c5", "scores_n500_d512_c50", "scores_n200_d300_c10_wide"])
def test_hscore_is_the_originals(golden, name):
    case = golden(name)
    x, y = case.inputs["features"], case.inputs["y"]
    assert hscore(x, y) == pytest.approx(case.outputs["hscore"][0], abs=1e-5)
    assert hscore(reduce(x, "compat:32"), y) == pytest.approx(case.outputs["hscore_f32"][0], abs=1e-3)


def test_hscore_of_more_dimensions_than_images_is_exactly_the_constant_and_says_so(golden):
    case = golden("scores_n500_d512_c50")
    with pytest.warns(UserWarning, match=r"hscore is the constant C - 1 = 49 .*500 images in 512 dimensions"):
        assert hscore(case.inputs["features"], case.inputs["y"]) == pytest.approx(49, abs=1e-9)


@pytest.mark.parametrize("score", [hscore, sfda, transrate])
def test_saturated_scores_say_so(score):
    """With as many directions as images, labels at random are told apart as well as the true ones."""
    x, y = one(n=60, d=300)
    with pytest.warns(UserWarning, match=rf"^{score.__name__} .*60 images in 300 dimensions.* by pca"):
        shuffled = score(x, np.random.default_rng(0).permutation(y))
    with pytest.warns(UserWarning, match="more images than dimensions"):
        assert score(x, y) == pytest.approx(shuffled, rel=0.15)


@pytest.mark.parametrize("score", [hscore, sfda, transrate])
def test_scores_do_not_warn_where_they_tell_something(score):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        score(*one(n=60, d=58))
        score(one(n=60, d=70)[0][:, [*range(58)] * 2], one(n=60)[1])  # rank decides


# Slow references


def naive_hscore(x, y):
    z = (x - x.mean(0)) / x.std(0)
    means = np.stack([z[y == c].mean(0) for c in y])
    return np.trace(linalg.pinvh(np.atleast_2d(np.cov(z.T)), rtol=1e-10) @ np.atleast_2d(np.cov(means.T)))


@given(problems())
@settings(max_examples=60, deadline=None)
def test_hscore_against_the_pseudo_inverse(problem):
    assert hscore(*problem) == pytest.approx(naive_hscore(*problem), rel=1e-6, abs=1e-9)


@given(problems(wide=60))
@settings(max_examples=60, deadline=None)
def test_shrinkage_is_that_of_scikit_learn(problem):
    from sklearn.covariance import ledoit_wolf_shrinkage

    x = centred(problem[0])
    rows = compact(x)
    for gram in (x.T @ x, x @ x.T):
        assert ledoit_wolf(rows, gram, x.shape[1]) == pytest.approx(ledoit_wolf_shrinkage(x), abs=1e-10)


def naive_hscore_shrunk(x, y):
    from sklearn.covariance import ledoit_wolf as reference

    covariance, shrinkage = reference(x)
    means = np.stack([x[y == c].mean(0) for c in y])
    between = np.atleast_2d(np.cov(means.T, ddof=0))
    return np.trace(np.linalg.solve(covariance, (1 - shrinkage) * between))


@given(problems())
@settings(max_examples=60, deadline=None)
def test_shrunk_hscore_against_scikit_learns_covariance(problem):
    assert hscore_shrunk(*problem) == pytest.approx(naive_hscore_shrunk(*problem), rel=1e-6, abs=1e-9)


def naive_lda_loo(x, y):
    """Refit for each image, at the ridge and the shrinkage of all images."""
    x = x - x.mean(0)
    n, d = x.shape
    within = np.concatenate([rows - rows.mean(0) for rows in by_class(x, y)])
    from sklearn.covariance import ledoit_wolf_shrinkage

    shrinkage = ledoit_wolf_shrinkage(within, assume_centered=True)
    ridge = shrinkage * (within**2).sum() / d
    names, counts = np.unique(y, return_counts=True)
    right = 0
    for i in range(n):
        rest, labels = np.delete(x, i, 0), np.delete(y, i)
        present = [c for c in names if (labels == c).any()]
        means = np.stack([rest[labels == c].mean(0) for c in present])
        own = np.concatenate([rest[labels == c] - m for c, m in zip(present, means, strict=True)])
        covariance = ((1 - shrinkage) * own.T @ own + ridge * np.eye(d)) / (n - 1)
        apart = x[i] - means
        logits = np.log(counts[np.isin(names, present)] / n)
        logits -= np.einsum("cd,cd->c", apart, np.linalg.solve(covariance, apart.T).T) / 2
        right += present[int(np.argmax(logits))] == y[i]
    return 100 * right / n


@given(problems(low=8, high=24, wide=30))
@settings(max_examples=60, deadline=None)
def test_discriminants_left_one_out_against_refits(problem):
    if problem[0].shape[1] == 1:  # the ridge is then 0 here, 1e-10 there
        return
    assert lda_loo(*problem) == pytest.approx(naive_lda_loo(*problem), abs=1e-9)


def naive_sfda(x, y):
    """Compute SFDA in all D dimensions, by the generalised eigenproblem of the published code."""
    names, codes, counts = np.unique(y, return_inverse=True, return_counts=True)
    prior, d = counts / len(x), x.shape[1]
    rows = np.arange(len(x))

    def covariances(x):
        within = sum(p * np.atleast_2d(np.cov(r.T, ddof=0)) for p, r in zip(prior, by_class(x, y), strict=True))
        return within, np.atleast_2d(np.cov(x.T, ddof=0))

    def shrunk(s, lam):
        return (1 - lam) * s + lam * np.trace(s) / d * np.eye(d)

    def fit(x, lam):
        within, total = (shrunk(s, lam) for s in covariances(x))
        _, vectors = linalg.eigh(total - within, within)
        means = np.stack([r.mean(0) for r in by_class(x, y)])
        coef = means @ vectors @ vectors.T
        return special.softmax(x @ coef.T - np.diag(means @ coef.T) / 2 + np.log(prior), axis=1), means

    lam = max(np.exp(-5 * np.linalg.eigvalsh(covariances(x)[0])[-1]), 1e-10)
    posterior, means = fit(x, lam)
    trust = special.softmax(posterior, axis=1)[rows, codes]
    others = np.stack([np.delete(means, c, 0).mean(0) for c in range(len(names))])
    mixed = trust[:, None] * x + (1 - trust[:, None]) * others[codes]
    return fit(mixed, lam)[0][rows, codes].mean()


@given(problems(low=12, wide=15), st.floats(0.05, 1))
@settings(max_examples=60, deadline=None)
def test_sfda_against_the_generalised_eigenproblem(problem, scale):
    x, y = problem[0] * scale, problem[1]
    assert sfda(x, y) == pytest.approx(naive_sfda(x, y), rel=1e-6)


def test_sfda_of_more_dimensions_than_images_against_the_generalised_eigenproblem():
    x, y = one(n=30, d=50, gap=0.3)  # a small scale, so that the shrinkage is large
    assert sfda(x / 20, y) == pytest.approx(naive_sfda(x / 20, y), rel=1e-8)


def naive_gbc(x, y, dims=64, floor=1e-3):
    x = x - x.mean(0)
    x = (x @ np.linalg.svd(x, full_matrices=False)[2].T)[:, : min(dims, len(x) - 1)]
    least = floor * x.var(0)
    stats = [(r.mean(0), np.maximum(r.var(0), least)) for r in by_class(x, y)]
    total = 0
    for i, (m, s) in enumerate(stats):
        for j, (o, t) in enumerate(stats):
            if i != j:
                both = (s + t) / 2
                bhattacharyya = ((m - o) ** 2 / both).sum() / 8 + np.log(both / np.sqrt(s * t)).sum() / 2
                total -= np.exp(-bhattacharyya)
    return total


@given(problems(), st.sampled_from([2, 64]))
@settings(max_examples=60, deadline=None)
def test_gbc_against_its_definition(problem, dims):
    assert gbc(*problem, dims=dims) == pytest.approx(naive_gbc(*problem, dims=dims), rel=1e-5, abs=1e-12)


def naive_transrate(x, y, eps=1e-4):
    z = x - x.mean(0)
    z = z / np.sqrt((z**2).sum(1).mean())

    def rate(z):
        return np.linalg.slogdet(np.eye(z.shape[1]) + z.T @ z / (len(z) * eps))[1] / 2

    return rate(z) - sum(len(r) / len(x) * rate(r) for r in by_class(z, y))


@given(problems(), st.sampled_from([1e-4, 1.0]))
@settings(max_examples=60, deadline=None)
def test_transrate_against_its_definition(problem, eps):
    assert transrate(*problem, eps=eps) == pytest.approx(naive_transrate(*problem, eps=eps), rel=1e-8, abs=1e-10)


# Changes that leave a score unchanged


@pytest.mark.parametrize("score", SCORES)
@given(problem=problems(low=12), seed=st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_order_of_images_and_names_of_classes_do_not_matter(score, problem, seed):
    (x, y), rng = problem, np.random.default_rng(seed)
    order, names = rng.permutation(len(y)), rng.choice(90, 6, replace=False)
    assert score(x[order], names[y[order]]) == pytest.approx(score(x, y), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("score", [s for s in SCORES if s is not hscore])  # which standardizes
@pytest.mark.parametrize("d", [8, 90])
def test_rotation_does_not_matter(score, d):
    x, y = one(d=d)
    turned = x @ np.linalg.qr(np.random.default_rng(1).normal(size=(d, d)))[0]
    assert score(turned, y) == pytest.approx(score(x, y), rel=1e-8)


@pytest.mark.parametrize("score", [s for s in SCORES if s is not sfda])  # which depends on the scale, as published
@pytest.mark.parametrize("scale", [1e-80, 1e-3, 1e6, 1e100])
def test_scale_and_origin_do_not_matter(score, scale):
    x, y = one()
    assert score((x + 3) * scale, y) == pytest.approx(score(x, y), rel=1e-8)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("d", [8, 90])
def test_constant_and_repeated_features_are_harmless(score, d):
    x, y = one(d=d)
    x = x.astype(np.float32)
    constant = np.insert(x, [0, 3, d], np.float32(0.1), axis=1)
    assert score(constant, y) == pytest.approx(score(x, y), rel=1e-9)
    assert np.isfinite(score(np.concatenate([x, x[:, :3]], 1), y))


def test_hscore_does_not_see_scales_of_single_features():
    x, y = one()
    assert hscore(x * 10.0 ** np.arange(-4, 4) + 1, y) == pytest.approx(hscore(x, y), rel=1e-8)


@pytest.mark.parametrize("score", SCORES)
def test_inputs_are_not_changed_and_types_do_not_matter(score):
    x, y = one()
    x32 = x.astype(np.float32)
    before = x32.copy(), y.copy()
    assert score(x32, y) == pytest.approx(score(x32.astype(np.float64).tolist(), y.tolist()), rel=1e-12)
    assert np.array_equal(x32, before[0])
    assert np.array_equal(y, before[1])


# Changes that change a score


@pytest.mark.parametrize("score", SCORES)
def test_separate_classes_score_higher_than_mixed_ones(score):
    scores = [score(x / 10, y) for x, y in (one(d=6, gap=gap) for gap in (0, 0.7, 3))]
    assert scores[0] < scores[1] < scores[2]


@pytest.mark.parametrize("score", [hscore_shrunk, lda_loo, gbc, sfda])  # see the docstrings of the others
def test_separate_classes_score_higher_with_more_dimensions_than_images(score):
    scores = [score(x / 50, y) for x, y in (one(d=100, gap=gap) for gap in (0, 1.5))]
    assert scores[0] < scores[1]


def test_lda_of_features_without_any_use_is_near_chance():
    rng = np.random.default_rng(0)
    scores = [lda_loo(rng.normal(size=(200, 8)), np.arange(200) % 10) for _ in range(20)]
    assert 7 < np.mean(scores) < 13


# Little, odd and bad input


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("d", [1, 2, 3, 4, 192])
def test_four_images_of_two_classes_give_a_number(score, d):
    x = np.random.default_rng(d).normal(size=(4, d)).astype(np.float32)
    assert np.isfinite(score(x, np.array([0, 1, 1, 0])))


@pytest.mark.parametrize("score", SCORES)
def test_classes_that_are_points_give_a_number(score):
    y = np.arange(40) % 4
    for d in (3, 60):
        x = np.random.default_rng(0).normal(size=(4, d))[y]
        assert np.isfinite(score(x, y))
        assert np.isfinite(score(x * 1e-200, y))
    assert lda_loo(x, y) == 100


@pytest.mark.parametrize("score", SCORES)
def test_steep_spectra_give_a_number(score):
    rng = np.random.default_rng(0)
    for n, d in ((200, 50), (60, 300)):
        x = rng.normal(size=(n, d)) @ np.diag(10.0 ** -np.linspace(0, 9, d)) @ rng.normal(size=(d, d))
        assert np.isfinite(score(x.astype(np.float32), np.arange(n) % 5))


def test_the_only_image_of_a_class_counts_as_wrong_for_discriminants():
    x, y = one(gap=30)
    x, y = np.concatenate([x, x[:1] + 500]), np.append(y, 9)
    assert lda_loo(x, y) == pytest.approx(100 * 60 / 61)


@pytest.mark.parametrize("score", SCORES)
def test_other_labels_are_refused(score):
    x, _ = one(n=6)
    with pytest.raises(InputError, match=r"labels has 1 class \(3\) in 6 images"):
        score(x, np.full(6, 3))
    with pytest.raises(NotSupported, match="regression"):
        score(x, np.linspace(0, 1, 6))
    with pytest.raises(NotSupported, match="multilabel"):
        score(x, np.eye(6))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: gbc(x, y, dims=0), "dims=0"),
        (lambda x, y: gbc(x, y, floor=0), "floor=0"),
        (lambda x, y: transrate(x, y, eps=float("nan")), "eps=nan must be positive"),
    ],
)
def test_options_are_checked(call, message):
    with pytest.raises(InputError, match=message):
        call(*one())


def test_the_module_holds_what_the_plugin_declares():
    from parc.plugin import plm_scorers

    names = {s.score.partition(":")[2] for s in plm_scorers() if s.score.startswith("parc.scores.covariance:")}
    assert names == {s.__name__ for s in SCORES}
    assert all(callable(getattr(covariance, name)) for name in names)


# The decomposition


@pytest.mark.parametrize("shape", [(30, 8), (8, 30), (12, 12)])
def test_spectrum_is_the_thin_svd(shape):
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape) @ np.diag(rng.uniform(0.1, 3, shape[1]))
    x[:, -1] = x[:, 0]
    svd = spectrum(x)
    singular = np.linalg.svd(x, compute_uv=False)
    k = len(svd.values)
    assert k == min(shape[0], shape[1] - 1)
    assert np.allclose(np.sqrt(svd.values), singular[:k])
    assert np.allclose(svd.left.T @ svd.left, np.eye(k), atol=1e-9)
    assert np.allclose(svd.coordinates @ svd.coordinates.T, x @ x.T)
    targets, codes = rng.normal(size=(shape[0], 3)), rng.integers(0, 3, shape[0])
    assert np.allclose(svd.left_times(targets), svd.left.T @ targets)
    assert np.allclose(svd.left_sums(codes, 4), np.eye(4)[codes].T @ svd.left)
    assert np.allclose(compact(x) @ compact(x).T, x @ x.T)
    assert compact(x).shape[1] <= shape[0]
