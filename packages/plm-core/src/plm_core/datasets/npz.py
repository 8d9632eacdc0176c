"""A dataset from an npz file with arrays of images and labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from plm_core.datasets.labelled import Dataset, numbered
from plm_core.errors import InputError

CHANNELS = (1, 3, 4)


def read_npz(path: Path) -> Dataset:
    """Read ``images``, uint8 [N, H, W] or [N, H, W, C], and ``labels``, [N] or [N, 1], or zeros and ones [N, C].

    Raises:
        InputError: The file cannot be read, or its arrays are of another form.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [key for key in ("images", "labels") if key not in file]
            if missing:
                raise InputError(f"dataset {str(path)!r} has keys {', '.join(file)} and lacks {' and '.join(missing)}")
            images, labels = file["images"], file["labels"]
    except InputError:
        raise
    except Exception as e:  # zipfile, zlib and numpy raise almost anything if a file is truncated or no npz file
        why = str(e).partition(" If you trust")[0]  # numpy goes on to advertise an unsafe option
        raise InputError(f"dataset {str(path)!r} cannot be read as npz: {why}") from e
    if images.dtype != np.uint8 or not (images.ndim == 3 or (images.ndim == 4 and images.shape[3] in CHANNELS)):
        form = f"{images.dtype} {list(images.shape)}"
        raise InputError(f"images of {str(path)!r} are {form}; uint8 [N, H, W] or [N, H, W, 1, 3 or 4] is allowed")
    if not images.size:
        raise InputError(f"images of {str(path)!r} are {list(images.shape)}: there are no pixels")
    if labels.shape[:1] != (len(images),):
        raise InputError(f"dataset {str(path)!r} has {len(images)} images and labels {list(labels.shape)}")
    names = [f"{path.name}[{i}]" for i in range(len(images))]
    return Dataset(str(path), names, *numbered(labels, str(path)), images)
