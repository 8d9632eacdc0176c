"""The inputs of the scores: features, labels and probabilities are checked and converted to NumPy arrays.

Bad input raises an `InputError` that names the argument, its value and what is allowed. Good input that a score cannot
use raises `NotSupported`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from plm_core.errors import InputError, NotSupported

Array = NDArray[Any]
Kind = Literal["classes", "multilabel", "regression"]

LARGEST = 1e150
"""Largest allowed feature. The square of a larger one would be infinite in float64."""
LARGEST_SINGLE = 1e15
"""Largest feature that stays in float32. Larger ones are converted to float64, to keep sums of squares finite."""


def features_of(x: object, name: str = "features", n: int | None = None) -> Array:
    """Return the features of images as a float32 or float64 array [N, D].

    Args:
        x: A NumPy array, a torch tensor on any device, or nested sequences of numbers, [N, D]. Half precision becomes
            float32, integers become float64.
        name: Name of the argument, for error messages.
        n: Expected number of images, if it is known.

    Raises:
        InputError: The features are not two-dimensional, are not numbers, contain NaN or infinite values, belong to
            fewer than 2 images, or are the same for every image.
    """
    a = _array(x, name)
    if a.ndim != 2 or a.shape[1] == 0:
        raise InputError(f"{name} is of shape {list(a.shape)}; [images, dimensions] is needed")
    if n is not None and len(a) != n:
        raise InputError(f"{name} has {len(a)} rows for {n} images")
    if len(a) < 2:
        raise InputError(f"{name} has {len(a)} image{'s' * (len(a) != 1)}; at least 2 are needed")
    a = _floats(a, name)
    high = float(max(a.max(), -a.min()))
    if not np.isfinite(high):
        _check_finite(a, name)
    if high > LARGEST:
        raise InputError(f"{name} has values up to {high:.3g}; at most {LARGEST:g} is allowed")
    if high > LARGEST_SINGLE:
        a = a.astype(np.float64)
    if (a[0] == a[-1]).all() and (a == a[:1]).all():
        raise InputError(f"{name} is constant: all {len(a)} images have the same {a.shape[1]} values")
    return a


def kind_of(labels: object) -> Kind:
    """Return the kind of labels, which follows from their form.

    Integers [N] are ``classes``. Zeros and ones [N, C] of any type are ``multilabel``. Floats [N], and any other values
    [N, T], are targets of a ``regression``. A single column [N, 1] is the same as [N].

    Raises:
        InputError: The labels have another form.
    """
    y = _labels(labels)
    if y.ndim not in (1, 2) or y.dtype.kind not in "biuf":
        form = f"of shape {list(y.shape)}" if y.dtype.kind in "biuf" else f"of type {y.dtype}"
        hint = "; number words by np.unique(labels, return_inverse=True)[1]" if y.dtype.kind in "USO" else ""
        allowed = "integer classes [N], zeros and ones [N, C] or float targets [N] or [N, T] are allowed"
        raise InputError(f"labels is {form}; {allowed}{hint}")
    if y.ndim == 1:
        return "regression" if y.dtype.kind == "f" else "classes"
    return "multilabel" if np.isin(y, (0, 1)).all() else "regression"


def labels_of(
    y: object, n: int | None = None, num_classes: int | None = None, kinds: Sequence[str] = ("classes",)
) -> Array:
    """Return the labels of images as int64 [N], or float64 [N], [N, C] or [N, T].

    Classes are int64 [N], multi-label labels float64 [N, C], and targets of a regression float64 [N] or [N, T].
    A class with a single image causes a warning, because there are no pairs and no neighbours within it. So do targets
    of a regression that are whole numbers, because they look like classes that were read as floats.

    Args:
        y: Array, tensor or sequence. `kind_of` describes the forms of the kinds.
        n: Expected number of images.
        num_classes: Number of classes in the dataset, even if some of them have no image here; None if it is not known.
        kinds: Kinds of labels that the score can use.

    Raises:
        InputError: The labels are of no kind, of another number, out of range, NaN, of one class only, or constant.
        NotSupported: The labels are of a kind that is not in ``kinds``.
    """
    a, kind = _labels(y), kind_of(y)
    if n is not None and len(a) != n:
        raise InputError(f"labels has {len(a)} rows for {n} images")
    if not len(a):
        raise InputError("labels is empty")
    if kind not in kinds:
        raise NotSupported(f"labels are of the kind {kind!r} ({_form(a)}); this score takes {' or '.join(kinds)}")
    if kind == "classes":
        return _classes(a, num_classes)
    a = a.astype(np.float64)
    _check_finite(a, "labels")
    if kind == "multilabel" and num_classes is not None and a.shape[1] != num_classes:
        raise InputError(f"labels has {a.shape[1]} columns for num_classes={num_classes}")
    if (a == a[:1]).all():
        raise InputError(f"labels is constant: all {len(a)} images have the same")
    if kind == "regression" and (a == np.rint(a)).all():
        warnings.warn(
            "labels are targets of a regression by their form, but whole numbers; if they are classes, cast them to "
            "integers [N]",
            stacklevel=3,
        )
    return a


def probs_of(p: object, n: int | None = None, score: str = "this score") -> Array:
    """Return a model's probabilities of its own (source) classes as a float64 array [N, S].

    Args:
        p: Array, tensor or sequence [N, S]; None for a model without a classifier.
        n: Expected number of images.
        score: Name of the score, for error messages.

    Raises:
        NotSupported: The probabilities are None or have no columns, because the model has no classifier.
        InputError: The shape is not [N, S], or the probabilities are NaN, negative, or do not sum to 1 within 1e-3.
    """
    a = None if p is None else _array(p, "probs")
    if a is None or (a.ndim == 2 and a.shape[1] == 0):
        raise NotSupported(
            f"{score} needs probs, the model's class probabilities; a model without a trained classifier has none"
        )
    if a.ndim != 2:
        raise InputError(f"probs is of shape {list(a.shape)}; [images, source classes] is needed")
    if n is not None and len(a) != n:
        raise InputError(f"probs has {len(a)} rows for {n} images")
    a = _floats(a, "probs").astype(np.float64)
    _check_finite(a, "probs")
    if a.min() < 0:
        raise InputError(f"probs has negative values, down to {a.min():.3g}; are these logits? Take their softmax")
    sums = a.sum(axis=1)
    worst = int(np.abs(sums - 1).argmax())
    if abs(sums[worst] - 1) > 1e-3:
        raise InputError(f"probs sum to {sums[worst]:.6g} in row {worst}; every row must sum to 1 within 0.001")
    return a


def _classes(a: Array, num_classes: int | None) -> Array:
    y = a.astype(np.int64)
    if y.min() < 0:
        raise InputError(f"labels has {y.min()}; classes count from 0")
    if num_classes is not None and y.max() >= num_classes:
        raise InputError(f"labels has {y.max()} for num_classes={num_classes}; 0 to {num_classes - 1} are allowed")
    present, counts = np.unique(y, return_counts=True)
    if len(present) < 2:
        raise InputError(f"labels has 1 class ({present[0]}) in {len(y)} images; at least 2 are needed")
    single = int((counts == 1).sum())
    if single:
        warnings.warn(
            f"labels has {single} of {len(present)} classes with a single image; scores need 2 or more of each",
            stacklevel=4,
        )
    return y


def _labels(labels: object) -> Array:
    """Return labels as an array, where a single column [N, 1] has become [N]."""
    y = _array(labels, "labels")
    return y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y


def _array(x: object, name: str) -> Array:
    if hasattr(x, "detach"):  # a torch tensor; NumPy knows neither bfloat16 nor other devices
        x = _of_tensor(x, name)
    if np.ma.is_masked(x):
        raise InputError(f"{name} has masked values; leave out their images, or fill them")
    try:
        return np.asarray(x)
    except ValueError:  # ragged sequences
        raise InputError(f"{name} is not an array: its rows differ in length") from None
    except (TypeError, RuntimeError, OverflowError) as e:  # from the object's own conversion
        raise InputError(f"{name} is a {type(x).__name__}, which is not an array: {e}") from None


def _of_tensor(x: Any, name: str) -> Any:
    try:
        t = x.detach().cpu()
        return t.float().numpy() if str(t.dtype) == "torch.bfloat16" else t.numpy()
    except (TypeError, NotImplementedError, RuntimeError):
        form = f"{getattr(x, 'layout', 'unknown')}, {getattr(x, 'dtype', 'unknown')}, on {getattr(x, 'device', '?')}"
        form = form.replace("torch.", "")
        raise InputError(
            f"{name} is a tensor without plain values ({form}); a dense tensor of numbers is needed"
        ) from None


def _floats(a: Array, name: str) -> Array:
    if a.dtype in (np.float32, np.float64):
        return a
    if a.dtype.kind not in "biuf":
        raise InputError(f"{name} is of type {a.dtype}; numbers are needed")
    return a.astype(np.float32 if a.dtype == np.float16 else np.float64)


def _check_finite(a: Array, name: str) -> None:
    bad = ~np.isfinite(a).reshape(len(a), -1).all(axis=1)
    if bad.any():
        raise InputError(
            f"{name} has NaN or infinite values in {bad.sum()} of {len(a)} rows, first in row {bad.argmax()}"
        )


def _form(a: Array) -> str:
    if a.ndim == 1:
        return "floats; cast classes to integers" if a.dtype.kind == "f" else "integers"
    return f"of shape {list(a.shape)}"
