"""Images or videos with one caption each as a dataset of torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.utils.data

from plm_core.datasets.captions.data import Captions


class CaptionPairs(torch.utils.data.Dataset[tuple[Any, Any]]):
    """A map-style dataset of (preprocessed image or video, caption).

    Of an image or video with several captions, one is drawn whenever it is indexed. In `plm_core.training.fit` the draw
    is a function of the seed, the epoch and the index, whichever process loads it.

    Args:
        captions: The images or videos and their captions.
        preprocess: Function from a PIL image of any mode, or from a `plm_core.video.Video`, to what a model takes.
        tokenize: Function from a caption to what is returned for it, such as token ids; None for the caption itself.
        training: Whether captions are drawn, by torch's generator; otherwise each is the first one.

    Raises:
        InputError: On indexing: an image or video cannot be read; the message names it.
    """

    def __init__(
        self,
        captions: Captions,
        preprocess: Callable[[Any], Any],
        tokenize: Callable[[str], Any] | None = None,
        training: bool = True,
    ) -> None:
        self.captions = captions
        self.preprocess = preprocess
        self.tokenize = tokenize
        self.training = training
        self._open: Callable[[int], Any] = captions.image if captions.kind == "images" else captions.video

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        texts = self.captions.texts_of(index)
        # before the preprocessing, whose draws may be as many as the size of the image asks for
        draw = int(torch.randint(len(texts), ())) if self.training and len(texts) > 1 else 0
        medium = self.preprocess(self._open(index))
        return medium, texts[draw] if self.tokenize is None else self.tokenize(texts[draw])
