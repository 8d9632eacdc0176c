"""Block adapters for the vision and audio models of Hugging Face transformers.

They are written for the module names of transformers 5.24. A release with other names is refused rather than guessed
at. Only `example` imports transformers: anyone who asks for a view has imported it already, to make the model.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from typing import Any

import torch
from torch import Tensor, nn

from plm_core.adapters.common import (
    additive,
    averaged_rows,
    identity,
    inverse,
    join_heads,
    kept_rows,
    no_view,
    refuse_masks,
    rotate,
    split_heads,
)
from plm_core.blocks import BlockView, ModelView, Tokens, original_class
from plm_core.errors import NotSupported
from plm_core.utils.references import resolve


@dataclass(frozen=True)
class Names:
    """The names of the parts of a layer in one family."""

    layers: str
    norms: tuple[str, str]
    attention: str = "attention"
    proj: str = "o_proj"
    dropout: str = "attention_dropout"

    @property
    def parts(self) -> tuple[str, ...]:
        """The modules that a layer must have."""
        inside = (f"{self.attention}.{part}" for part in ("q_proj", "k_proj", "v_proj", self.proj))
        return (*self.norms, "mlp", *inside)


VIT = Names("layers", norms=("layernorm_before", "layernorm_after"))
TOWER = Names(
    "encoder.layers",
    norms=("layer_norm1", "layer_norm2"),
    attention="self_attn",
    proj="out_proj",
    dropout="dropout",
)
DINOV2 = Names("encoder.layer", norms=("norm1", "norm2"))
DINOV3 = Names("model.layer", norms=("norm1", "norm2"), dropout="dropout")

VIDEOMAE = "encoder.layer"
VIDEOMAE_PARTS = (
    *("layernorm_before", "layernorm_after", "intermediate", "output", "attention.output"),
    *(f"attention.attention.{part}" for part in ("query", "key", "value")),
)


def vit(model: Any) -> ModelView:
    """Return the view of a ViTModel, DeiTModel, ASTModel or VivitModel, which answer by their special tokens."""
    return _model(model, VIT)


def tower(model: Any) -> ModelView:
    """Return the view of a CLIPVisionModel or SiglipVisionModel. SigLIP has no class token and pools its patches."""
    return _model(model, TOWER, pools_patches=not _has(model.embeddings, "class_embedding"))


def dinov2(model: Any) -> ModelView:
    """Return the view of a Dinov2Model or Dinov2Backbone, with or without registers.

    Its classifier gets the class token and the mean of the patches.
    """
    return _model(model, DINOV2, pools_patches=True)


def dinov3(model: Any) -> ModelView:
    """Return the view of a DINOv3ViTModel or DINOv3ViTBackbone, with rotary positions as ``position_embeddings``."""
    return _model(model, DINOV3, positions="rotary")


def videomae(model: Any) -> ModelView:
    """Return the view of a VideoMAEModel, which attends over space and time at once and has no special tokens."""
    layers = _layers(model, VIDEOMAE, VIDEOMAE_PARTS, ("attention", "attention.attention"))
    blocks = tuple(_videomae_block(layer, name) for name, layer in layers.items())
    return ModelView(model, blocks, _tokens(model), pools_patches=True)


def example(model: str, **options: Any) -> nn.Module:
    """Build a model with random weights from the name of its class in transformers and options of its configuration.

    Raises:
        MissingDependency: transformers is not installed.
    """
    cls = resolve(f"transformers:{model}")
    instance: nn.Module = cls(cls.config_class(**options))
    return instance


def _model(model: Any, names: Names, positions: str = "absolute", pools_patches: bool = False) -> ModelView:
    layers, tokens = _layers(model, names.layers, names.parts, (names.attention,)), _tokens(model, positions)
    blocks = tuple(_block(layer, name, names, tokens.prefix) for name, layer in layers.items())
    maps = any(cls.__name__ == "BackboneMixin" for cls in type(model).__mro__)
    return ModelView(model, blocks, tokens, returns_maps=maps, pools_patches=pools_patches)


def _layers(model: Any, path: str, parts: tuple[str, ...], attentions: tuple[str, ...]) -> dict[str, Any]:
    """Return the layers of a model by name. They and their attentions must compute what transformers' own do.

    Args:
        model: The model.
        path: The dotted path of the list of layers.
        parts: The dotted paths inside a layer of all that a view uses.
        attentions: Those of the attentions, whose forward a view does not call.
    """
    try:
        layers = {f"{path}.{name}": layer for name, layer in model.get_submodule(path).named_children()}
        for layer in layers.values():
            for part in parts:
                layer.get_submodule(part)
    except AttributeError as e:
        raise NotSupported(
            f"{type(model).__name__} of transformers {metadata.version('transformers')} is not built as in 5.24, "
            f"for which the view is written: {e}"
        ) from e
    for layer in layers.values():
        for part in (layer, *map(layer.get_submodule, attentions)):
            if not inspect.unwrap(original_class(part).forward).__module__.startswith("transformers."):
                raise no_view(layer, part, "transformers' own layer with its own attention")
    return layers


def _tokens(model: Any, positions: str = "absolute") -> Tokens:
    names = {name for name in ("cls_token", "class_embedding", "distillation_token") if _has(model.embeddings, name)}
    registers = model.config.num_register_tokens if _has(model.embeddings, "register_tokens") else 0
    return Tokens(len(names - {"distillation_token"}), int("distillation_token" in names), registers, positions)


def _has(module: nn.Module, name: str) -> bool:
    return getattr(module, name, None) is not None


def _block(layer: Any, name: str, names: Names, prefix: int) -> BlockView:
    attn = getattr(layer, names.attention)
    num_heads = _num_heads(attn)
    norm1, norm2 = (getattr(layer, norm) for norm in names.norms)
    dropout, drop_path = (getattr(layer, part, identity) for part in ("dropout", "drop_path"))
    scale1, scale2 = (getattr(layer, part, identity) for part in ("layer_scale1", "layer_scale2"))

    def qkv(
        normed: Tensor, position_embeddings: tuple[Tensor, Tensor] | None = None, **context: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (split_heads(part(normed), num_heads) for part in (attn.q_proj, attn.k_proj, attn.v_proj))
        if position_embeddings is not None:
            table = _table(position_embeddings)
            q, k = rotate(q, table, half=True), rotate(k, table, half=True)
        return q, k, v

    def unrotate(
        key: Tensor,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        averaged: bool = False,
        **context: Any,
    ) -> Tensor:
        if position_embeddings is None:
            return key
        return rotate(key, inverse(_table(position_embeddings), averaged), half=True)

    def proj(attended: Tensor, normed: Tensor) -> Tensor:
        return drop_path(dropout(scale1(getattr(attn, names.proj)(join_heads(attended)))))

    return BlockView(
        block=layer,
        name=name,
        num_heads=num_heads,
        normalize=norm1,
        qkv=qkv,
        proj=proj,
        residual=lambda x, normed: x,
        view_of=partial(_block, name=name, names=names, prefix=prefix),
        mlp_residual=lambda x: x + drop_path(dropout(scale2(layer.mlp(norm2(x))))),
        bias=partial(_mask, layer),
        select=partial(_select, prefix),
        hidden=(attn,),
        dropout=getattr(attn, names.dropout) if layer.training else 0.0,
        unrotate=unrotate,
        average=partial(_average, prefix),
    )


def _videomae_block(layer: Any, name: str) -> BlockView:
    attn = layer.attention.attention
    num_heads = _num_heads(attn)

    def qkv(normed: Tensor, **context: Any) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (split_heads(part(normed), num_heads) for part in (attn.query, attn.key, attn.value))
        return q, k, v

    return BlockView(
        block=layer,
        name=name,
        num_heads=num_heads,
        normalize=layer.layernorm_before,
        qkv=qkv,
        proj=lambda attended, normed: layer.attention.output(join_heads(attended), normed),
        residual=lambda x, normed: x,
        view_of=partial(_videomae_block, name=name),
        mlp_residual=lambda x: layer.output(layer.intermediate(layer.layernorm_after(x)), x),
        hidden=(layer.attention, attn),
        dropout=attn.dropout_prob if layer.training else 0.0,
    )


def _num_heads(attn: Any) -> int:
    return int(attn.config.num_attention_heads)


def _table(position_embeddings: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = position_embeddings
    return torch.cat([sin, cos], -1)


def _mask(layer: nn.Module, attention_mask: Any = None, **context: Any) -> Tensor | None:
    if attention_mask is None:
        return None
    if not isinstance(attention_mask, Tensor) or attention_mask.ndim != 4:
        raise NotSupported(
            f"an attention_mask of kind {type(attention_mask).__name__} is for another attention implementation; "
            "a tensor [B, 1 or H, N, N] is supported"
        )
    return additive(attention_mask, next(layer.parameters()).dtype)


def _select(prefix: int, context: Mapping[str, Any], kept: Tensor) -> Mapping[str, Any]:
    refuse_masks(context, "attention_mask")
    tables = context.get("position_embeddings")
    if tables is None:
        return context
    return {**context, "position_embeddings": tuple(kept_rows(table, kept, prefix) for table in tables)}


def _average(prefix: int, context: Mapping[str, Any], group: Tensor, size: Tensor) -> Mapping[str, Any]:
    refuse_masks(context, "attention_mask")
    tables = context.get("position_embeddings")
    if tables is None:
        return context
    means = tuple(averaged_rows(table, group, size, prefix) for table in tables)
    return {**context, "position_embeddings": means, "averaged": True}
