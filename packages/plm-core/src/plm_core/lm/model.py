"""The Perception Language Model (arXiv 2504.13180): visual tokens take the places of placeholders in a text.

Shapes: B texts of L tokens, V words, N chunks of pixels (tiles, images or frames) of S x S, n visual tokens per chunk,
D width of the decoder.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from plm_core.errors import InputError
from plm_core.lm.chat import IGNORE
from plm_core.lm.vision import VisionEncoder

IMAGE_TOKEN_ID, VIDEO_TOKEN_ID = 128002, 128003
"""The placeholders of images and of videos in the vocabulary of Llama 3, as transformers names them."""


class PerceptionLM(nn.Module):
    """A language model that sees: a vision tower, a projector, and any causal language model of transformers.

    Args:
        tower: The vision tower, see `VisionEncoder`.
        decoder: A causal language model of transformers, such as a LlamaForCausalLM.
        pooling_ratio: Patches per visual token along each side.
        image_token_id: The token that holds the place of each visual token of an image.
        video_token_id: The token that holds the place of each visual token of a video.
        config: The configuration by which transformers would build the same model. None if there is none.

    Attributes:
        vision: The `VisionEncoder`.
        decoder: The language model. Its settings for generation are ``decoder.generation_config``.
        num_features: D.
        num_classes: 0. A language model has no classes.

    Raises:
        NotSupported: The tower gives no feature maps.
    """

    num_classes = 0

    def __init__(
        self,
        tower: nn.Module,
        decoder: nn.Module,
        pooling_ratio: int = 2,
        image_token_id: int = IMAGE_TOKEN_ID,
        video_token_id: int = VIDEO_TOKEN_ID,
        config: Any = None,
    ) -> None:
        super().__init__()
        self.decoder: Any = decoder
        width: Any = decoder.config
        self.vision = VisionEncoder(tower, width.hidden_size, pooling_ratio)
        self.num_features: int = width.hidden_size
        self.image_token_id = image_token_id
        self.video_token_id = video_token_id
        self.config = config
        _keep_rotations(decoder)
        module: Any = self  # torch has no types for its hooks
        module._register_state_dict_hook(_without_tied_head)
        module.register_load_state_dict_pre_hook(_with_tied_head)
        module.register_load_state_dict_post_hook(_tie_again)

    @property
    def device(self) -> torch.device:
        """The device of the decoder."""
        device: torch.device = self.decoder.get_input_embeddings().weight.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """The data type of the decoder."""
        dtype: torch.dtype = self.decoder.get_input_embeddings().weight.dtype
        return dtype

    @property
    def tied(self) -> bool:
        """Whether the decoder's head shares the weight of its embedding of words."""
        head, words = self.decoder.get_output_embeddings(), self.decoder.get_input_embeddings()
        return head is not None and (head.weight is words.weight or bool(self.decoder.config.tie_word_embeddings))

    # --- forward ------------------------------------------------------------------------------------------------

    def image_features(self, pixel_values: Tensor) -> Tensor:
        """Return the visual tokens of chunks.

        Args:
            pixel_values: [N, 3, S, S], or [B, N, 3, S, S] as transformers has it.

        Returns:
            [N, n, D], or [B * N, n, D].

        Raises:
            InputError: The pixels have another shape.
        """
        if pixel_values.ndim not in (4, 5) or pixel_values.shape[-3] != 3:
            raise InputError(
                f"pixel_values has shape {list(pixel_values.shape)}; [chunks, 3, size, size] or [batch, chunks, 3, "
                "size, size] is expected"
            )
        chunks = pixel_values.flatten(0, 1) if pixel_values.ndim == 5 else pixel_values
        tokens: Tensor = self.vision(chunks.to(device=self.device, dtype=self.dtype))
        return tokens

    def embed(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
    ) -> Tensor:
        """Return the embeddings of tokens, with visual tokens in the places of the placeholders.

        Args:
            input_ids: [B, L]. The visual tokens of the chunks fill the placeholders in row-major order.
            pixel_values: The chunks of all images, see `image_features`; None if there are none.
            pixel_values_videos: The frames of all videos.

        Returns:
            [B, L, D].

        Raises:
            InputError: There are more or fewer placeholders than visual tokens.
        """
        embeddings: Tensor = self.decoder.get_input_embeddings()(input_ids)
        for name, pixels, token in (
            ("pixel_values", pixel_values, self.image_token_id),
            ("pixel_values_videos", pixel_values_videos, self.video_token_id),
        ):
            if pixels is not None:
                embeddings = put(embeddings, input_ids == token, self.image_features(pixels), name)
        return embeddings

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> Any:
        """Return the logits of the next tokens, and the loss if there are labels.

        Images alone, [B, 3, S, S] as floats in place of ``input_ids``, give their visual tokens [B, n, D]. So what
        works on a vision model works on the eyes of this one.

        Args:
            input_ids: Token ids, int64 [B, L].
            attention_mask: 1 for a token and 0 for padding, [B, L]; None if there is no padding.
            pixel_values: The chunks of all images, see `embed`.
            pixel_values_videos: The frames of all videos.
            labels: The tokens themselves where they are targets, and -100 elsewhere, [B, L].
            logits_to_keep: The number of last positions that get logits, or the indices of positions; 0 for all.
            **kwargs: Further keywords of the decoder, such as ``position_ids`` and ``use_cache``.

        Returns:
            The decoder's output, with ``logits`` [B, L, V], the ``loss`` and, if it was asked for, the ``cache``. The
            loss is the mean cross-entropy over all targets, and 0 if there are none.

        Raises:
            InputError: There are more or fewer placeholders than visual tokens, or labels without all logits.
        """
        if input_ids.is_floating_point():
            return self.image_features(input_ids)
        if labels is not None and not (isinstance(logits_to_keep, int) and logits_to_keep == 0):
            raise InputError("labels need the logits of all positions; leave logits_to_keep out")
        output = self.decoder(
            inputs_embeds=self.embed(input_ids, pixel_values, pixel_values_videos),
            attention_mask=attention_mask,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )
        if labels is not None:
            output.loss = next_token_loss(output.logits[:, :-1], labels[:, 1:])
        return output

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Generate text with ``generate`` of transformers.

        Prompts of different lengths are padded on the left. Only placeholders of the prompt stand for visual tokens.

        Args:
            input_ids: The prompts, int64 [B, L].
            attention_mask: 1 for a token and 0 for padding, [B, L]; None if there is no padding.
            pixel_values: See `forward`.
            pixel_values_videos: See `forward`.
            **kwargs: Keywords of transformers' ``generate``: ``max_new_tokens``, ``do_sample``, ``num_beams``,
                ``streamer`` and others.

        Returns:
            The prompts and what was generated, int64 [B, L + new], or the object that transformers returns on request.

        Raises:
            InputError: There are more or fewer placeholders than visual tokens.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        return self.decoder.generate(
            input_ids=input_ids,
            inputs_embeds=self.embed(input_ids, pixel_values, pixel_values_videos),
            attention_mask=attention_mask,
            **kwargs,
        )

    # --- what trainings and tools ask for ---------------------------------------------------------------------------

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute the blocks of tower and decoder again in the backward pass, instead of keeping their activations."""
        self.vision.tower.set_grad_checkpointing(enable)
        if enable:
            self.decoder.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        else:
            self.decoder.gradient_checkpointing_disable()

    def resample(self, key: str, table: Tensor) -> Tensor:
        """Resize a position table of the tower from another image size, if the tower can. Other tensors stay."""
        prefix = "vision.tower."
        resample = getattr(self.vision.tower, "resample", None)
        if resample is None or not key.startswith(prefix):
            return table
        resized: Tensor = resample(key.removeprefix(prefix), table)
        return resized


def put(embeddings: Tensor, places: Tensor, tokens: Tensor, name: str) -> Tensor:
    """Return embeddings with visual tokens in places.

    Args:
        embeddings: [B, L, D].
        places: bool [B, L]. They are filled in row-major order.
        tokens: [N, n, D].
        name: The argument that the tokens are from, for the error.

    Raises:
        InputError: There are more or fewer places than tokens.
    """
    wanted, given = int(places.sum()) if not places.is_meta else tokens[..., 0].numel(), tokens[..., 0].numel()
    if wanted != given:
        raise InputError(
            f"input_ids has {wanted} placeholders where {name} gives {given} visual tokens, {tokens.shape[1]} for each "
            f"of {tokens.shape[0]} chunks; they must agree"
        )
    return embeddings.masked_scatter(places[..., None], tokens.to(embeddings))


def next_token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy over the targets, at least in float32, and 0 if there are none.

    Args:
        logits: [..., V].
        targets: Token ids, and -100 where there is no target, [...].
    """
    total = nn.functional.cross_entropy(
        logits.flatten(0, -2).to(torch.promote_types(logits.dtype, torch.float32)),
        targets.flatten().to(logits.device),
        ignore_index=IGNORE,
        reduction="sum",
    )
    return total / (targets != IGNORE).sum().clamp(min=1).to(total.device)


# --- the head and the rotations --------------------------------------------------------------------------------------


def _names(model: Any) -> tuple[str, str]:
    """Return the names of the weights of the decoder's head and of its embedding of words."""
    layers = {module: name for name, module in model.named_modules()}
    head, words = model.decoder.get_output_embeddings(), model.decoder.get_input_embeddings()
    return f"{layers[head]}.weight", f"{layers[words]}.weight"


def _without_tied_head(model: Any, state: dict[str, Any], prefix: str, _: Any) -> None:
    """Leave a head out of the state dict that repeats the embedding of words, as all files of such models do."""
    if model.tied:
        state.pop(prefix + _names(model)[0], None)


def _with_tied_head(model: Any, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Let a state dict have the head that it repeats."""
    if model.tied:
        head, words = _names(model)
        if prefix + words in state:
            state.setdefault(prefix + head, state[prefix + words])


def _tie_again(model: Any, _: Any) -> None:
    """Let the head share the embedding's weight again, which assigned tensors do not."""
    if model.tied:
        model.decoder.get_output_embeddings().weight = model.decoder.get_input_embeddings().weight


def _keep_rotations(decoder: nn.Module) -> None:
    """Compute the frequencies of rotary positions also on the meta device: no file has them."""
    for module in list(decoder.modules()):
        for name, part in list(module.named_children()):
            config: Any = getattr(part, "config", None)
            on_meta = any(buffer.is_meta for buffer in part.buffers(recurse=False))
            if on_meta and config is not None and "RotaryEmbedding" in type(part).__name__:
                with torch.device("cpu"):
                    setattr(module, name, type(part)(config=config))
