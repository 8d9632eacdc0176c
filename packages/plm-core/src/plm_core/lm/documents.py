"""Attention within documents: several conversations in one row that do not see one another, without padding.

transformers hands keywords of a decoder on to its attention, and lets libraries register attentions by name. Ours takes
the lengths of the documents in a row, and attends within each one. No mask is made, and no work is done for pairs of
tokens of different documents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from plm_core.errors import InputError, NotSupported
from plm_core.lm.chat import IGNORE
from plm_core.lm.model import PerceptionLM, next_token_loss

NAME = "plm_documents"
"""The attention's name, for ``set_attn_implementation``. Without documents it is the attention of torch."""


class Documents:
    """The lengths of the documents in a row.

    Attributes:
        lengths: Numbers of tokens. They fill the row.
        attended: Whether an attention has asked for them.
    """

    def __init__(self, lengths: Sequence[int]) -> None:
        self.lengths = list(lengths)
        self.attended = False


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    documents: Documents | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend within each document, or in the whole row if there are none. See transformers' AttentionInterface.

    Raises:
        NotSupported: The decoder attends in a window that is shorter than a document, or caps its logits.
    """
    if documents is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    window: int | None = kwargs.get("sliding_window")
    if window is not None and window < max(documents.lengths):
        raise NotSupported(
            f"a document has {max(documents.lengths)} tokens, and the decoder attends in windows of {window}"
        )
    if kwargs.get("softcap") is not None:
        raise NotSupported("the decoder caps the logits of its attention, which torch's attention does not")
    documents.attended = True
    parts = (part.split(documents.lengths, dim=2) for part in (query, key, value))
    outputs = [sdpa_attention_forward(module, q, k, v, None, **kwargs)[0] for q, k, v in zip(*parts, strict=True)]
    return torch.cat(outputs, 1), None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)


def attend_within_documents(decoder: PreTrainedModel) -> None:
    """Let a decoder take documents. Its outputs without them stay the same.

    Raises:
        NotSupported: The decoder does not take attentions by name.
    """
    if not getattr(decoder, "_supports_attention_backend", False):
        raise NotSupported(f"{type(decoder).__name__} takes no other attention than its own")
    decoder.set_attn_implementation(NAME)


class Learner(nn.Module):
    """A model as `plm_core.training.fit` trains it: from packed rows to their loss.

    Args:
        model: The model. Its decoder is given to `attend_within_documents`.
        idle_size: Side in pixels of a chunk that is encoded for rows without media, to no effect on the loss. Several
            processes need it, whose collectives must keep in step, and so does a training of the projector alone, in
            which each row must have a gradient. None for no such chunk.
    """

    def __init__(self, model: PerceptionLM, idle_size: int | None = None) -> None:
        super().__init__()
        attend_within_documents(model.decoder)
        self.model = model
        self.idle_size = idle_size

    def forward(self, batch: Mapping[str, Any], logits: bool = False) -> Tensor:
        """Return the mean cross-entropy over all targets of a packed row, and 0 if there are none.

        The head is applied to the tokens before targets alone.

        Args:
            batch: As `plm_core.lm.data.pack` returns it: ``input_ids``, ``labels`` and ``position_ids`` [1, T],
                ``lengths``
                of the documents, ``media_positions`` [k], and ``pixel_values`` [N, 3, S, S] or None.
            logits: Whether to return the logits for the targets instead, [P, V]. There must be targets.

        Raises:
            InputError: The chunks do not fill the places of visual tokens.
            NotSupported: The decoder does not hand the documents on to its attention.
        """
        places = torch.nonzero(batch["labels"][0] != IGNORE)[:, 0]
        if not len(places):  # some logits are still needed, whose gradients are 0
            places = places.new_ones(1)
        predicted = packed_logits(self.model, batch, places, self.idle_size)
        return predicted if logits else next_token_loss(predicted, batch["labels"][0, places])


def packed_logits(
    model: PerceptionLM, batch: Mapping[str, Any], places: Tensor, idle_size: int | None = None
) -> Tensor:
    """Return the logits for the tokens at places of a packed row, each from the token before it: [P, V].

    Args:
        model: A model whose decoder was given to `attend_within_documents`.
        batch: See `Learner`.
        places: Positions from 1, int64 [P].
        idle_size: See `Learner`.
    """
    embeddings = _embeddings(model, batch, idle_size)
    documents = Documents(batch["lengths"].tolist())
    output = model.decoder(
        inputs_embeds=embeddings,
        position_ids=batch["position_ids"],
        attention_mask=embeddings.new_ones(1, 1, 1, 1),  # transformers makes none of its own beside one of 4 dimensions
        documents=documents,
        logits_to_keep=places - 1,
        use_cache=False,
    )
    if not documents.attended:
        raise NotSupported(
            f"{type(model.decoder).__name__} does not hand the documents of a row on to its attention, so it cannot be "
            "trained on packed rows"
        )
    logits: Tensor = output.logits[0]
    return logits


def _embeddings(model: PerceptionLM, batch: Mapping[str, Any], idle_size: int | None) -> Tensor:
    embeddings: Tensor = model.decoder.get_input_embeddings()(batch["input_ids"])
    pixels, places = batch["pixel_values"], batch["media_positions"]
    if pixels is None:
        if idle_size is None:
            return embeddings
        unseen = model.image_features(embeddings.new_ones(1, 3, idle_size, idle_size))
        return embeddings + 0 * unseen.sum().to(embeddings)
    tokens = model.image_features(pixels).flatten(0, 1)
    if len(tokens) != len(places):
        raise InputError(
            f"the row has {len(places)} places for visual tokens, and its {len(pixels)} chunks give {len(tokens)}; "
            "they must agree"
        )
    return embeddings.index_copy(1, places, tokens[None].to(embeddings))
