"""PE-Core: a vision tower and a text tower that embed images, videos and texts in one space (arXiv 2504.13181).

Shapes: B batch, F frames, L tokens of a text, E width of the embedding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pe_encoder.model import VisionTower
from pe_encoder.text import TextTower
from pe_encoder.tokenization import Tokenizer, tokenizer, vocab_size, word_tokenizer
from plm_core import InputError

TEMPERATURE = 0.07
"""The temperature that a training begins with; the logits are scaled by its inverse."""


class CLIP(nn.Module):
    """The two towers of PE-Core.

    Args:
        vision: Keywords of `VisionTower`, a vision tower that pools.
        text: Keywords of `TextTower`, with the same ``output_dim``.
        vocabulary: The words that the text tower knows, in the order of their ids, for a tower with a small vocabulary.
            None for CLIP's byte pairs.
        img_size: Size of the images, in place of the ``image_size`` in ``vision``.
        in_chans: Number of channels of the images, in place of that in ``vision``.
        drop_path_rate: Rate of dropped paths in the vision tower, in place of ``drop_path`` in ``vision``.
        ragged: Whether images may have sides that are not multiples of the patch, see `VisionTower`.
        device: Device of the parameters.
        dtype: Data type of the parameters.

    Attributes:
        visual: The vision tower.
        text: The text tower.
        logit_scale: The logarithm of the factor of the logits, which the towers learn.
        num_classes: 0, since its classes are texts.

    Raises:
        InputError: An argument is out of its range, or the towers do not share an embedding space.
    """

    num_classes = 0

    def __init__(
        self,
        vision: Mapping[str, Any],
        text: Mapping[str, Any],
        *,
        vocabulary: Sequence[str] | None = None,
        img_size: int | tuple[int, int] | None = None,
        in_chans: int | None = None,
        drop_path_rate: float | None = None,
        ragged: bool | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        given = {"img_size": img_size, "in_chans": in_chans, "drop_path": drop_path_rate, "ragged": ragged}
        changes = {name: value for name, value in given.items() if value is not None}
        self.visual = VisionTower(**{**vision, **changes}, **dd)
        self.text = TextTower(**text, **dd)
        if self.visual.global_pool == "":
            raise InputError("vision has pool_type 'none'; a CLIP needs a vision tower that pools, such as PE-Core's")
        if self.visual.num_classes != self.text.output_dim:
            raise InputError(
                f"vision has output_dim {self.visual.num_classes} and text has {self.text.output_dim}; the towers "
                "need the same"
            )
        self.vocabulary = None if vocabulary is None else tuple(vocabulary)
        if self.vocabulary is not None and vocab_size(self.vocabulary) != self.text.vocab_size:
            raise InputError(
                f"text has vocab_size {self.text.vocab_size}; vocabulary has {len(self.vocabulary)} words, which make "
                f"{vocab_size(self.vocabulary)}"
            )
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / TEMPERATURE), **dd))

    def tokenizer(self) -> Tokenizer:
        """Return the function from texts to the ids that the text tower takes.

        Raises:
            MissingDependency: It is that of CLIP's byte pairs, and the extra ``text`` is not installed.
        """
        if self.vocabulary is not None:
            return word_tokenizer(self.vocabulary, self.context_length)
        return tokenizer(self.context_length)

    @property
    def num_features(self) -> int:
        """E, the width of the embedding."""
        return self.text.output_dim

    @property
    def vocab_size(self) -> int:
        """The number of ids of a text; the largest is its end."""
        return self.text.vocab_size

    @property
    def context_length(self) -> int:
        """The most tokens of a text."""
        return self.text.context_length

    def encode_image(self, image: Tensor, normalize: bool = False) -> Tensor:
        """Embed images: [B, 3, H, W] -> [B, E], of length 1 if ``normalize``."""
        embedding = self.visual(image)
        return F.normalize(embedding, dim=-1) if normalize else embedding

    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
        """Embed texts: ids, int64 [B, L], as from `pe_encoder.tokenizer` -> [B, E], of length 1 if ``normalize``."""
        embedding = self.text(text)
        return F.normalize(embedding, dim=-1) if normalize else embedding

    def encode_video(self, video: Tensor, normalize: bool = False) -> Tensor:
        """Embed videos as the means of their frames, which are encoded in one batch.

        With ``normalize``, the embedding of each FRAME has length 1, and the mean is left as it is, as in the original:
        its length is at most 1. Retrieval uses it so. Classification normalizes the mean instead.

        Args:
            video: [B, F, 3, H, W].
            normalize: Whether to normalize the embeddings of the frames.

        Returns:
            [B, E].
        """
        if video.ndim != 5 or not video.shape[1]:
            raise InputError(
                f"video has shape {list(video.shape)}; [batch, frames, channels, height, width] with one frame or more "
                "is expected"
            )
        frames = self.encode_image(video.flatten(0, 1), normalize)
        return frames.unflatten(0, (video.shape[0], video.shape[1])).mean(1)

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Embed images and texts.

        Returns:
            The embeddings of the images and of the texts, [B, E] of length 1, and the factor of the logits.
        """
        return self.encode_image(image, True), self.encode_text(text, True), self.logit_scale.exp()

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute the blocks of both towers again in the backward pass of a training."""
        self.visual.set_grad_checkpointing(enable)
        self.text.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Return the names of the parameters that optimizers should not decay."""
        visual = {f"visual.{name}" for name in self.visual.no_weight_decay()}
        return visual | {"text.pos_embed", "text.token_embedding.weight", "logit_scale"}

    def why_not(self, state: Mapping[str, Tensor]) -> str:
        """Say why a file with these tensors, by their names in the file, holds no such model."""
        if not any("token_embedding" in name for name in state):
            return (
                "the file has no text tower: PE-Lang and PE-Spatial have none, since their alignment has changed the "
                "last layers, and no text tower fits to their output; files of PE-Core have both towers"
            )
        names = ("positional_embedding", "text.positional_embedding")
        length = next((len(state[name]) for name in names if name in state), self.context_length)
        if length != self.context_length:
            return (
                f"the file's texts have {length} tokens and the model's {self.context_length}: set context_length in "
                "the keywords of text"
            )
        return self.visual.why_not(state)

    def resample(self, key: str, table: Tensor) -> Tensor:
        """Resize the positions of a checkpoint's vision tower to this model's size; other tensors stay."""
        prefix, _, name = key.partition(".")
        return self.visual.resample(name, table) if prefix == "visual" else table


def clip(num_classes: int = 0, ragged: bool = False, **kwargs: Any) -> CLIP:
    """Build a CLIP by timm's conventions: the sides of images must be multiples of the patch.

    Raises:
        InputError: A classifier is asked for.
    """
    if num_classes:
        raise InputError(
            f"num_classes is {num_classes}; a CLIP has no classifier: name the classes in texts, or create its vision "
            "tower, pe_core_*, with num_classes"
        )
    return CLIP(ragged=ragged, **kwargs)
