"""Scores that read the labels off probabilities: LEEP, NCE, N-LEEP, and the energy of the features.

LEEP and NCE ask what a model's own (source) classes tell of the target's; they need its classifier and say nothing of a
headless model. N-LEEP makes up such classes by a Gaussian mixture of the features.
"""

from __future__ import annotations

import warnings

import numpy as np

from parc.scores.inputs import Array, count_of, features_of, labels_of, probs_of
from parc.scores.pca import principal
from plm_core.errors import InputError

SMOOTHING = 1e-5
"""Of NCE: added to the joint and, apart from it, to the marginal frequencies, as the original does."""


def leep(features: Array, labels: Array, *, probs: Array | None = None) -> float:
    """Log Expected Empirical Prediction (Nguyen et al. 2020): how well source classes predict the labels.

    The mean log-likelihood of a classifier that draws a source class from the model's probabilities and then a label
    from the empirical P(label | source class). A source class that no image has any probability of has no part in it
    (the original gives NaN).

    Args:
        features: [N, D], only counted.
        labels: Classes int64 [N].
        probs: The model's probabilities of its own classes [N, S].

    Returns:
        Nats, at most 0.

    Raises:
        NotSupported: No probabilities: the model is headless.
        InputError: Unfit labels or probabilities.
    """
    y = labels_of(labels, len(features))
    return _leep(probs_of(probs, len(y), "leep"), y)


def nce(features: Array, labels: Array, *, probs: Array | None = None, num_classes: int | None = None) -> float:
    """Negative Conditional Entropy (Tran et al. 2019) of the labels given the most probable source class.

    Frequencies are smoothed by 1e-5 in every cell of the nominal [C, S] table and in the source marginal, which is not
    the sum of the smoothed cells; so the score depends slightly on ``num_classes``.

    Args:
        features: [N, D], only counted.
        labels: Classes int64 [N].
        probs: The model's probabilities of its own classes [N, S].
        num_classes: C; None for the highest label + 1.

    Returns:
        Nats, about at most 0.

    Raises:
        NotSupported: No probabilities: the model is headless.
        InputError: Unfit labels or probabilities.
    """
    y = labels_of(labels, len(features), num_classes)
    p = probs_of(probs, len(y), "nce")
    joint = np.zeros((count_of(y, num_classes), p.shape[1]))
    np.add.at(joint, (y, p.argmax(axis=1)), 1 / len(y))
    marginal = joint.sum(axis=0) + SMOOTHING
    joint += SMOOTHING
    return float((joint * np.log(joint / marginal)).sum())


def energy(features: Array, labels: Array, *, tail: float = 1.0) -> float:
    """Energy of the features (ETran, Gholami et al. 2023): the mean over images of ``log(sum(exp(features)))``.

    For logits this is the log-evidence of a model that reads its outputs as an energy: high when the images look like
    what it was trained on. For features it is about their largest entry; it sees neither labels nor the scale that
    features happen to have, so it compares only models whose features are alike (one architecture, one recipe). It is
    meant as one part of a sum.

    Args:
        features: [N, D].
        labels: Of any kind; only counted.
        tail: Share of the images, those of the lowest energy, that the mean is over.

    Raises:
        InputError: Unfit features, or ``tail`` outside (0, 1].
    """
    x = features_of(features, n=len(labels)).astype(np.float64)
    if not 0 < tail <= 1:
        raise InputError(f"tail={tail!r} is not allowed; a share above 0 and up to 1 is")
    high = x.max(axis=1)
    energies = np.sort(high + np.log(np.exp(x - high[:, None]).sum(axis=1)))
    return float(energies[: max(1, round(tail * len(x)))].mean())


def nleep(
    features: Array, labels: Array, *, components: int | None = None, variance: float = 0.8, seed: int = 0
) -> float:
    """N-LEEP (Li et al. 2021): LEEP with the posteriors of a Gaussian mixture of the features as source classes.

    The features are reduced to the principal components that hold ``variance`` of their variance, each scaled by the
    same number (which moves no posterior but keeps the mixture's floor on variances meaningful). Common ports average
    probabilities instead of their logarithms; this is the logarithm.

    Args:
        features: [N, D].
        labels: Classes int64 [N].
        components: Gaussians, with diagonal covariances; None for 5 per class that occurs, but at most one for every 5
            images (and at least 2): with as many Gaussians as images every label would be predicted.
        variance: Share of the variance to keep.
        seed: Of the mixture's start.

    Returns:
        Nats, at most 0.

    Raises:
        InputError: Unfit features, labels or options.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    x = features_of(features)
    y = labels_of(labels, len(x))
    if not 0 < variance <= 1:
        raise InputError(f"variance={variance!r} is not allowed; a share above 0 and up to 1 is")
    count = min(5 * len(np.unique(y)), max(2, len(x) // 5)) if components is None else components
    if not 1 <= count <= len(x):
        raise InputError(f"components={components!r} is not allowed; 1 to {len(x)}, the number of images, is")
    scores, variances = principal(x)
    kept = int(np.searchsorted(np.cumsum(variances) / variances.sum(), variance - 1e-9)) + 1
    reduced = scores[:, :kept] / np.sqrt(variances[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a mixture that still moves is as good a set of classes
        mixture = GaussianMixture(count, covariance_type="diag", random_state=seed).fit(reduced)
    return _leep(mixture.predict_proba(reduced), y)


def _leep(p: Array, y: Array) -> float:
    _, y = np.unique(y, return_inverse=True)
    joint = np.zeros((y.max() + 1, p.shape[1]))
    np.add.at(joint, y, p)
    totals = joint.sum(axis=0)
    given = joint / np.where(totals > 0, totals, 1)
    return float(np.log(np.einsum("ij,ij->i", given[y], p)).mean())
