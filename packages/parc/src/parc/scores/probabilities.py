"""Scores from class probabilities: LEEP, NCE and N-LEEP, and the energy of the features.

LEEP and NCE measure how much a model's own (source) classes say about the labels. They need the model's classifier, so
a headless model has no score. N-LEEP makes up source classes by a Gaussian mixture of the features.
"""

from __future__ import annotations

import warnings

import numpy as np

from parc.scores.inputs import Array, features_of, labels_of, probs_of
from parc.scores.linalg import classes
from parc.scores.pca import principal
from plm_core.errors import InputError

SMOOTHING = 1e-5
"""NCE adds this number to the joint frequencies and, separately, to the marginal ones, as the original does."""


def leep(features: Array, labels: Array, *, probs: Array | None = None) -> float:
    """Compute LEEP, the Log Expected Empirical Prediction (Nguyen et al. 2020): how well source classes predict labels.

    LEEP is the mean log-likelihood of a classifier that draws a source class from the model's probabilities and then a
    label from the empirical P(label | source class). A source class that has probability 0 for every image does not
    count (the original returns NaN).

    Args:
        features: [N, D]. Only their number is used.
        labels: Classes int64 [N].
        probs: The model's probabilities of its own classes [N, S].

    Returns:
        Nats, at most 0.

    Raises:
        NotSupported: There are no probabilities, because the model is headless.
        InputError: The labels or probabilities are not allowed.
    """
    y = labels_of(labels, len(features))
    return _leep(probs_of(probs, len(y), "leep"), y)


def nce(features: Array, labels: Array, *, probs: Array | None = None, num_classes: int | None = None) -> float:
    """Compute NCE, the Negative Conditional Entropy of the labels given the likeliest source class (Tran et al. 2019).

    Frequencies are smoothed by 1e-5 in every cell of the nominal [C, S] table and in the source marginal. The smoothed
    marginal is not the sum of the smoothed cells, so the score depends slightly on ``num_classes``. The numbers that
    the classes have do not matter.

    Args:
        features: [N, D]. Only their number is used.
        labels: Classes int64 [N].
        probs: The model's probabilities of its own classes [N, S].
        num_classes: C, which counts classes without an image too; None for the number of classes that occur.

    Returns:
        Nats, at most about 0.

    Raises:
        NotSupported: There are no probabilities, because the model is headless.
        InputError: The labels or probabilities are not allowed.
    """
    y = labels_of(labels, len(features), num_classes)
    p = probs_of(probs, len(y), "nce")
    codes, counts = classes(y)
    joint = np.zeros((len(counts), p.shape[1]))
    np.add.at(joint, (codes, p.argmax(axis=1)), 1 / len(y))
    marginal = joint.sum(axis=0) + SMOOTHING
    joint += SMOOTHING
    absent = (num_classes or len(counts)) - len(counts)  # rows of the table that hold the smoothing only
    empty = absent * (SMOOTHING * np.log(SMOOTHING / marginal)).sum()
    return float((joint * np.log(joint / marginal)).sum() + empty)


def energy(features: Array, labels: Array, *, tail: float = 1.0) -> float:
    """Compute the energy of the features (ETran, Gholami et al. 2023), the mean over images of log(sum(exp(features))).

    For logits this is the log-evidence of a model whose outputs are taken as an energy. It is high if the images look
    like those that the model was trained on. For features it is roughly their largest entry. It uses no labels and does
    not correct for the scale of the features, so it compares only models with similar features (one architecture, one
    recipe). It is meant as one term of a sum.

    Args:
        features: [N, D].
        labels: Labels of any kind. Only their number is used.
        tail: Share of the images that the mean covers, those of the lowest energy.

    Raises:
        InputError: The features are not allowed, or ``tail`` is outside (0, 1].
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
    """Compute N-LEEP (Li et al. 2021): LEEP with the posteriors of a Gaussian mixture of the features.

    The features are reduced to the principal components that hold ``variance`` of their variance. All components are
    scaled by the same number, which changes no posterior but keeps the mixture's floor on variances meaningful. Common
    ports average the probabilities. This function averages their logarithms.

    Args:
        features: [N, D].
        labels: Classes int64 [N].
        components: Number of Gaussians, with diagonal covariances. None for 5 per class that occurs, but at most one
            for every 5 images (and at least 2): with as many Gaussians as images every label would be predicted.
        variance: Share of the variance to keep.
        seed: Seed of the mixture's initialisation.

    Returns:
        Nats, at most 0.

    Raises:
        InputError: The features, labels or options are not allowed.
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
    coordinates, variances = principal(x / np.abs(x).max())  # the squares of tiny numbers would be 0
    kept = int(np.searchsorted(np.cumsum(variances) / variances.sum(), variance - 1e-9)) + 1
    reduced = coordinates[:, :kept] / np.sqrt(variances[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # an unconverged mixture serves just as well
        mixture = GaussianMixture(count, covariance_type="diag", random_state=seed).fit(reduced)
    return _leep(mixture.predict_proba(reduced), y)


def _leep(p: Array, y: Array) -> float:
    codes, counts = classes(y)
    joint = np.zeros((len(counts), p.shape[1]))
    np.add.at(joint, codes, p)
    totals = joint.sum(axis=0)
    conditional = joint / np.where(totals > 0, totals, 1)
    return float(np.log(np.einsum("ij,ij->i", conditional[codes], p)).mean())
