"""Small real data that ships with scikit-learn, for tests, micro models and the tour (extra ``plm-core[tour]``)."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from plm_core.errors import InputError, MissingDependency

Split = Literal["train", "heldout"]
PHOTOS = ("china", "flower")


def digits(split: Split) -> tuple[list[Image.Image], NDArray[np.int64]]:
    """Return handwritten digits, 8x8 greyscale: the 1797 of UCI's optical recognition data that scikit-learn ships.

    Every fifth image is held out. Writers are not separated: both splits hold digits of the same people. A held-out
    score therefore says how well a model reads these writers, not strangers.

    Args:
        split: ``train`` (1437 images) or ``heldout`` (360).

    Returns:
        PIL images of mode ``L`` and their labels, int64 [N].
    """
    if split not in ("train", "heldout"):
        raise InputError(f"split {split!r} is not allowed: 'train' and 'heldout' are")
    data = _sklearn_datasets().load_digits()
    in_split = (np.arange(len(data.target)) % 5 == 0) == (split == "heldout")
    pixels = (data.images[in_split] * (255 / 16)).round().astype(np.uint8)
    return [Image.fromarray(image) for image in pixels], data.target[in_split].astype(np.int64)


def photo(name: str = "china") -> Image.Image:
    """Return a photograph that scikit-learn ships, 640x427 RGB: ``china`` (a temple) or ``flower``.

    Both are under CC BY 2.0, by the flickr users danielbuechele and vultilion. Name them where you show the pictures.
    """
    if name not in PHOTOS:
        raise InputError(f"photo {name!r} is not allowed: {' and '.join(map(repr, PHOTOS))} are")
    return Image.fromarray(_sklearn_datasets().load_sample_image(f"{name}.jpg"))


def _sklearn_datasets() -> Any:
    try:
        from sklearn import datasets
    except ModuleNotFoundError as e:
        raise MissingDependency("the sample data need scikit-learn: install plm-core[tour]") from e
    return datasets
