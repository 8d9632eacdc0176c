"""The tensor names that the original uses. Ours are the same, but for what its backbone has beside."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gazelle.decoder import Decoder
from gazelle.dinov2 import HubVisionTransformer
from gazelle.model import GazeLLE
from plm_core import NotSupported
from plm_core.layouts import Rule, Step

BACKBONE = "backbone.model."


def release(model: Decoder) -> tuple[Rule, ...]:
    """Return the rules for a released file, which has no backbone."""
    if isinstance(model, GazeLLE):
        raise NotSupported("released files have the decoder alone; gazelle.load_release puts one on a backbone")
    return (Rule("*", "*"),)


def official(model: GazeLLE) -> tuple[Rule, ...]:
    """Return the rules for a whole model of the original.

    DINOv2 of torch.hub has a mask token, which only its training used, and puts its registers elsewhere.
    """
    vit = model.backbone.model
    if not isinstance(vit, HubVisionTransformer):
        raise NotSupported("the original has a backbone of DINOv2 alone")
    mask = Rule(f"{BACKBONE}patch_embed.proj.bias", (f"{BACKBONE}patch_embed.proj.bias", f"{BACKBONE}mask_token"), MASK)
    if vit.reg_token is None:
        return (mask, Rule("*", "*"))
    special = tuple(f"{BACKBONE}{name}" for name in ("cls_token", "reg_token", "pos_embed"))
    theirs = tuple(f"{BACKBONE}{name}" for name in ("cls_token", "register_tokens", "pos_embed"))
    return (mask, Rule(special, theirs, REGISTERS), Rule("*", "*"))


def _with_mask(parts: Sequence[Tensor]) -> list[Tensor]:
    (bias,) = parts
    return [bias, torch.zeros(1, len(bias), dtype=bias.dtype, device=bias.device)]


def _without_mask(parts: Sequence[Tensor]) -> list[Tensor]:
    return [parts[0]]


def _to_hub(parts: Sequence[Tensor]) -> list[Tensor]:
    token, registers, positions = parts
    return [torch.zeros_like(token), registers, torch.cat([token, positions], 1)]


def _to_timm(parts: Sequence[Tensor]) -> list[Tensor]:
    token, registers, positions = parts
    return [token + positions[:, :1], registers, positions[:, 1:]]


MASK = Step("mask token", _with_mask, _without_mask)
"""The mask token of the hub's DINOv2, which no trained decoder has seen. It is written as zeros."""
REGISTERS = Step("registers", _to_hub, _to_timm)
"""timm adds the position of the class token to the token itself, so that its positions are of patches alone."""
