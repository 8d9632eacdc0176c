"""Data of a study: digits of 32 pixels, in memory."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from PIL import Image

from plm_core import samples
from plm_core.training.micro import InMemory, shift

Split = Literal["train", "heldout"]


def digits(split: Split, count: int) -> InMemory:
    """Return handwritten digits, enlarged from 8 to 32 pixels: float [1, 32, 32] from -1 to 1, and their labels.

    Training images are shifted at random by up to two pixels.
    """
    images, labels = samples.digits(split)
    large = [np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR), np.float32) for image in images[:count]]
    x = torch.from_numpy(np.stack(large))[:, None] / 127.5 - 1
    return InMemory(x, torch.from_numpy(labels[:count]), shift if split == "train" else None)
