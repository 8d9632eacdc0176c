"""The tensor names that other code bases use for the towers. Ours are timm's, but for the layer scale and the head."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pe_encoder.clip import CLIP
from pe_encoder.model import VisionTower
from pe_encoder.text import TextTower
from plm_core import NotSupported
from plm_core.layouts import Rule, Step, prefixed, transpose

Rules = tuple[Rule, ...]


def official(model: VisionTower) -> Rules:
    """Return the rules for a vision tower in the original's names."""
    if isinstance(model.head, nn.Linear) and model.head.bias is not None:
        raise NotSupported("the original's towers have a projection without a bias, and no classifier")
    width = model.embed_dim
    return (
        Rule("patch_embed.proj.weight", "conv1.weight"),
        Rule("cls_token", "class_embedding", step=_added_dimensions(2)),
        Rule("pos_embed", "positional_embedding", step=_added_dimensions(1)),
        Rule("norm_pre.*", "ln_pre.*"),
        Rule("norm.*", "ln_post.*"),
        Rule("attn_pool.latent", "attn_pool.probe"),
        Rule(("attn_pool.q.*", "attn_pool.kv.*"), "attn_pool.attn.in_proj_*", step=_joined_rows((width, 2 * width))),
        Rule("attn_pool.proj.*", "attn_pool.attn.out_proj.*"),
        Rule("attn_pool.norm.*", "attn_pool.layernorm.*"),
        Rule("attn_pool.mlp.fc1.*", "attn_pool.mlp.c_fc.*"),
        Rule("attn_pool.mlp.fc2.*", "attn_pool.mlp.c_proj.*"),
        Rule("head.weight", "proj", step=transpose()),
        *_blocks(len(model.blocks)),
    )


def _blocks(depth: int) -> Rules:
    """Return the rules for the blocks of a tower, which have CLIP's names in the original."""
    names = {
        "norm1.*": "ln_1.*",
        "norm2.*": "ln_2.*",
        "attn.qkv.*": "attn.in_proj_*",
        "attn.proj.*": "attn.out_proj.*",
        "mlp.fc1.*": "mlp.c_fc.*",
        "mlp.fc2.*": "mlp.c_proj.*",
        "ls1.*": "ls_1.*",
        "ls2.*": "ls_2.*",
    }
    return tuple(
        Rule(f"blocks.{block}.{ours}", f"transformer.resblocks.{block}.{theirs}")
        for block in range(depth)
        for ours, theirs in names.items()
    )


def official_in_clip(model: VisionTower) -> Rules:
    """Return the rules for the vision tower in a file of PE-Core, which holds both towers."""
    return prefixed("", "visual.", official(model))


def timm(model: VisionTower) -> Rules:
    """Return the rules for timm's vit_pe_*: its projection has a bias, which is zero in every published file."""
    scales = (
        Rule(f"blocks.{i}.ls{n}.gamma", f"blocks.{i}.gamma_{n}") for i in range(len(model.blocks)) for n in (1, 2)
    )
    projects = isinstance(model.head, nn.Linear) and model.head.bias is None
    head = (Rule("head.weight", ("head.weight", "head.bias"), step=ZERO_BIAS),) if projects else ()
    return (*scales, *head, Rule("*", "*"))


def open_clip_trunk(model: VisionTower) -> Rules:
    """Return the rules for the vision tower in a file of open_clip's PE-Core, where it is timm's."""
    return prefixed("", "visual.trunk.", timm(model))


def official_text(model: TextTower) -> Rules:
    """Return the rules for a text tower in the names of the original, and of CLIP."""
    return (
        Rule("token_embedding.weight", "token_embedding.weight"),
        Rule("pos_embed", "positional_embedding", step=_added_dimensions(1)),
        Rule("norm.*", "ln_final.*"),
        Rule("head.weight", "text_projection", step=transpose()),
        *_blocks(len(model.blocks)),
    )


def open_clip_text(model: TextTower) -> Rules:
    """Return the rules for the text tower in a file of open_clip's PE-Core."""
    return prefixed("", "text.", official_text(model))


def official_clip(model: CLIP) -> Rules:
    """Return the rules for both towers in the original's file: the names of the text tower have no prefix there."""
    return (
        Rule("logit_scale", "logit_scale"),
        *prefixed("visual.", "visual.", official(model.visual)),
        *prefixed("text.", "", official_text(model.text)),
    )


def open_clip(model: CLIP) -> Rules:
    """Return the rules for both towers in open_clip's file."""
    return (
        Rule("logit_scale", "logit_scale"),
        *prefixed("visual.", "visual.trunk.", timm(model.visual)),
        *prefixed("text.", "text.", official_text(model.text)),
    )


def _added_dimensions(number: int) -> Step:
    """Return the step for a native tensor with ``number`` more dimensions of size one in front."""

    def to_foreign(parts: list[Tensor]) -> list[Tensor]:
        return [parts[0].reshape(parts[0].shape[number:])]

    def to_native(parts: list[Tensor]) -> list[Tensor]:
        return [parts[0].reshape(*[1] * number, *parts[0].shape)]

    return Step("added dimensions", to_foreign, to_native)


def _joined_rows(sizes: Sequence[int]) -> Step:
    """Return the step for native tensors of so many rows that are one tensor elsewhere."""

    def to_foreign(parts: list[Tensor]) -> list[Tensor]:
        return [torch.cat(parts)]

    def to_native(parts: list[Tensor]) -> list[Tensor]:
        return list(parts[0].split(list(sizes)))

    return Step("joined rows", to_foreign, to_native)


def _with_zeros(parts: list[Tensor]) -> list[Tensor]:
    return [parts[0], parts[0].new_zeros(parts[0].shape[0])]


def _without_zeros(parts: list[Tensor]) -> list[Tensor]:
    weight, bias = parts
    if not bias.is_meta and bool(bias.any()):
        raise ValueError("a projection with a bias has no place in the tower")
    if bias.shape != weight.shape[:1]:
        raise ValueError("weight and bias have different sizes")
    return [weight]


ZERO_BIAS = Step("zero bias", _with_zeros, _without_zeros)
"""A native projection without a bias that has one elsewhere, of zeros. With other values the tensors are left over."""
