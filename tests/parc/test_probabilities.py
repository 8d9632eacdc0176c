import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import parc
from parc.scores.probabilities import energy, leep, nce, nleep
from plm_core.errors import InputError, NotSupported


def sample(n=60, classes=4, sources=6, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % classes)
    return rng.standard_normal((n, 5)), y, rng.dirichlet(np.full(sources, 0.3), n)


def naive_leep(p, y):
    score = 0.0
    for i in range(len(y)):
        total = 0.0
        for z in range(p.shape[1]):
            of_class = sum(p[j, z] for j in range(len(y)) if y[j] == y[i])
            total += of_class / p[:, z].sum() * p[i, z] if p[:, z].sum() > 0 else 0
        score += np.log(total) / len(y)
    return score


def naive_nce(p, y, classes):
    z, score = p.argmax(1), 0.0
    for c in range(classes):
        for s in range(p.shape[1]):
            joint = np.mean((y == c) & (z == s)) + 1e-5
            score += joint * np.log(joint / (np.mean(z == s) + 1e-5))
    return score


SIZES = {"classes": st.integers(2, 6), "sources": st.integers(1, 9), "seed": st.integers(0, 10**6)}


@settings(max_examples=25, deadline=None)
@given(**SIZES)
def test_leep_is_its_definition(classes, sources, seed):
    x, y, p = sample(24, classes, sources, seed)
    assert leep(x, y, probs=p) == pytest.approx(naive_leep(p, y), abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(extra=st.integers(0, 5), **SIZES)
def test_nce_is_its_definition(classes, sources, seed, extra):
    x, y, p = sample(24, classes, sources, seed)
    expected = naive_nce(p, y, classes + extra)
    assert nce(x, y, probs=p, num_classes=classes + extra) == pytest.approx(expected, abs=1e-9)


def test_nce_without_a_count_takes_the_highest_label():
    x, y, p = sample()
    assert nce(x, y, probs=p) == nce(x, y, probs=p, num_classes=4) != nce(x, y, probs=p, num_classes=9)


def test_source_class_without_any_probability():
    x, y, p = sample()
    wider = np.insert(p, 2, 0, axis=1)
    assert leep(x, y, probs=wider) == pytest.approx(leep(x, y, probs=p), abs=1e-12)
    assert np.isfinite(nce(x, y, probs=wider))


def test_source_classes_that_are_the_labels():
    x, y, _ = sample()
    p = np.eye(4)[y]
    assert leep(x, y, probs=p) == pytest.approx(0)
    assert nce(x, y, probs=p) == pytest.approx(0, abs=2e-3)


def test_source_classes_that_say_nothing():
    x, y, _ = sample(classes=4)
    p = np.full((60, 3), 1 / 3)
    assert leep(x, y, probs=p) == pytest.approx(-np.log(4))
    assert nce(x, y, probs=p) == pytest.approx(-np.log(4), abs=1e-3)


@pytest.mark.parametrize("ids", [[2, 0, 1, 3], [1, 4, 7, 10], [7, 700, 20_000, 10**12]])
@pytest.mark.parametrize("name", [name for name in parc.methods() if name not in ("rsa", "dds", "energy")])
def test_the_numbers_of_the_classes_do_not_matter(name, ids):
    """Identifiers with gaps are the same classes, without memory for each number between them."""
    x, y, p = sample()
    renamed = parc.score(name, x, np.array(ids)[y], probs=p)
    assert renamed == pytest.approx(parc.score(name, x, y, probs=p), abs=1e-9)


def test_nce_counts_the_nominal_classes_however_many():
    x, y, p = sample()
    assert nce(x, y, probs=p, num_classes=9) == pytest.approx(naive_nce(p, y, 9), abs=1e-12)
    assert nce(x, y, probs=p, num_classes=9) != pytest.approx(nce(x, y, probs=p), abs=1e-6)
    assert np.isfinite(nce(x, y, probs=p, num_classes=10**12))


@pytest.mark.parametrize("scale", [1e-320, 1e-200, 1e140])
def test_nleep_of_very_small_and_large_features(scale):
    x, y, _ = sample()
    x += 3 * np.eye(4, 5)[y]
    assert nleep(x * scale, y) == pytest.approx(nleep(x, y), abs=0.05)  # 1e-320 has four digits


@pytest.mark.parametrize("score", [leep, nce])
def test_headless_model(score):
    x, y, _ = sample()
    with pytest.raises(NotSupported, match=rf"{score.__name__} needs probs.*without a trained classifier"):
        score(x, y)


@pytest.mark.parametrize("score", [leep, nce])
def test_probabilities_that_are_none(score):
    x, y, p = sample()
    with pytest.raises(InputError, match="must sum to 1"):
        score(x, y, probs=2 * p)
    with pytest.raises(InputError, match="labels has 59 rows"):
        score(x, y[1:], probs=p)


def test_energy_is_mean_logsumexp():
    from scipy.special import logsumexp

    x, y, _ = sample()
    x[0] = 1000
    assert energy(x, y) == pytest.approx(logsumexp(x, axis=1).mean())
    assert energy(x, y, tail=0.25) == pytest.approx(np.sort(logsumexp(x, axis=1))[:15].mean())
    assert energy(x, y / 7) == energy(x, y)


@pytest.mark.parametrize("tail", [0, -0.1, 1.1])
def test_tails_that_are_refused(tail):
    with pytest.raises(InputError, match="a share above 0 and up to 1"):
        energy(*sample()[:2], tail=tail)


def clusters(n=120, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    return rng.standard_normal((n, 20)) + 4 * rng.standard_normal((classes, 20))[y], y


def test_nleep_tells_clusters_from_shuffled_labels():
    x, y = clusters()
    shuffled = np.random.default_rng(1).permutation(y)
    assert -0.1 < nleep(x, y) <= 0
    assert nleep(x, shuffled) < -0.3


def test_nleep_is_leep_of_a_mixture():
    from sklearn.mixture import GaussianMixture

    x, y = clusters()
    z = x - x.mean(0)
    u, s, _ = np.linalg.svd(z, full_matrices=False)
    kept = int((np.cumsum(s**2) / (s**2).sum() < 0.8).sum()) + 1
    rows = (u * s)[:, :kept] / s[0] * np.sqrt(len(x))
    mixture = GaussianMixture(6, covariance_type="diag", random_state=0).fit(rows)
    assert nleep(x, y, components=6) == pytest.approx(naive_leep(mixture.predict_proba(rows), y), abs=1e-6)


def test_nleep_is_the_same_each_time_and_at_any_scale():
    x, y = clusters()
    assert nleep(x, y) == nleep(x, y) == pytest.approx(nleep(1000 * x, y), abs=1e-6)


def test_nleep_of_four_images():
    assert np.isfinite(nleep(np.random.default_rng(0).standard_normal((4, 8)), [0, 1, 1, 0]))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"components": 0}, "1 to 120"), ({"components": 121}, "1 to 120"), ({"variance": 0}, "a share above 0")],
)
def test_options_that_nleep_refuses(options, message):
    with pytest.raises(InputError, match=message):
        nleep(*clusters(), **options)
