"""Augmentation of clips with image augmentations.

Shapes: T frames, H, W pixels; pixels are RGB.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from plm_core.errors import InputError
from plm_core.video.clips import Frames, frames_tensor


class per_clip:
    """An augmentation of clips that applies ONE draw of an image augmentation, timm's or torchvision's, to all frames.

    The generators of Python, NumPy and torch are set to the same seed before each frame and restored at the end. The
    seed is drawn from torch's generator. An augmentation with a generator of its own is not affected, so it may still
    differ from frame to frame.

    Args:
        transform: The image augmentation: a function from a PIL image to a float tensor [3, H, W].
    """

    def __init__(self, transform: Callable[[Any], Tensor]) -> None:
        self.transform = transform

    def __call__(self, clip: Frames) -> Tensor:
        """Augment a clip, uint8 [T, H, W, 3] -> float [3, T, H, W].

        Raises:
            InputError: The clip has a different form, or ``transform`` does not return a tensor.
        """
        pictures = [Image.fromarray(picture.numpy()) for picture in frames_tensor(clip)]
        seed = int(torch.randint(2**32, ()))
        python, numpy = random.getstate(), np.random.get_state()
        try:
            with torch.random.fork_rng(devices=[]):
                frames = [self._transform(picture, seed) for picture in pictures]
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
        return torch.stack(frames, 1)

    def _transform(self, picture: Image.Image, seed: int) -> Tensor:
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)
        frame = self.transform(picture)
        if not isinstance(frame, Tensor):
            raise InputError(
                f"transform gives {type(frame).__name__}; it must end in a tensor [channels, height, width]"
            )
        return frame
