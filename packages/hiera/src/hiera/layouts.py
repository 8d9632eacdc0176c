"""The tensor names that other code bases use for a Hiera; our own names are timm's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from hiera.dense.fpn import HieraDetFpn
from hiera.hieradet import HieraDet
from hiera.mae import MaskedAutoencoderHiera
from hiera.model import Hiera
from plm_core import NotSupported
from plm_core.layouts import Rule


def official(model: Hiera) -> tuple[Rule, ...]:
    """Return the rules for the original repository's names; only the head differs."""
    return (
        Rule("head.norm.*", "norm.*"),
        Rule("head.fc.*", "head.projection.*"),
        Rule("pos_embed*", "pos_embed*"),
        Rule("patch_embed.*", "patch_embed.*"),
        Rule("blocks.*", "blocks.*"),
    )


def _stages(blocks: str, stage_ends: Sequence[int], template: str) -> Iterator[Rule]:
    """Yield the rules for blocks that transformers numbers within each stage, with its names for the norms."""
    starts = [0, *(end + 1 for end in stage_ends)]
    for stage, (start, stop) in enumerate(pairwise(starts)):
        for block in range(start, stop):
            yield from _norms(f"{blocks}.{block}", template.format(stage=stage, layer=block - start))


def _norms(native: str, foreign: str) -> tuple[Rule, ...]:
    return (
        Rule(f"{native}.norm1.*", f"{foreign}.layernorm_before.*"),
        Rule(f"{native}.norm2.*", f"{foreign}.layernorm_after.*"),
        Rule(f"{native}.*", f"{foreign}.*"),
    )


def transformers_backbone(model: Hiera) -> tuple[Rule, ...]:
    """Return the rules for transformers' HieraModel, which supports only images with a plain position embedding."""
    if model.pos_embed is None or model.pos_embed_win is not None or len(model.grid) != 2:
        raise NotSupported("transformers supports Hiera only for images with a plain position embedding")
    return (
        Rule("pos_embed", "embeddings.position_embeddings"),
        Rule("patch_embed.proj.*", "embeddings.patch_embeddings.projection.*"),
        Rule("head.norm.*", "pooler.layernorm.*"),
        *_stages("blocks", model.stage_ends, "encoder.stages.{stage}.layers.{layer}"),
    )


def transformers(model: Hiera) -> tuple[Rule, ...]:
    """Return the rules for transformers' HieraForImageClassification."""
    backbone = (Rule(rule.native, f"hiera.{rule.foreign}") for rule in transformers_backbone(model))
    return (Rule("head.fc.*", "classifier.*"), *backbone)


def transformers_mae(model: MaskedAutoencoderHiera) -> tuple[Rule, ...]:
    """Return the rules for transformers' HieraForPreTraining."""
    trunk = (rule for rule in transformers_backbone(model) if rule.native != "head.norm.*")
    decoder = (
        rule
        for block in range(len(model.decoder_blocks))
        for rule in _norms(f"decoder_blocks.{block}", f"decoder.decoder_block.layers.{block}")
    )
    return (
        *(Rule(rule.native, f"hiera.{rule.foreign}") for rule in trunk),
        *decoder,
        Rule("encoder_norm.*", "encoder_norm.*"),
        Rule("multi_scale_fusion_heads.*", "multiscale_fusion.multi_scale_fusion_heads.*"),
        Rule("mask_token", "decoder.mask_token"),
        Rule("decoder_pos_embed", "decoder.decoder_position_embeddings"),
        Rule("decoder_embed.*", "decoder.decoder_embeddings.*"),
        Rule("decoder_norm.*", "decoder.decoder_norm.*"),
        Rule("decoder_pred.*", "decoder.decoder_pred.*"),
    )


def sam2_trunk(model: HieraDet) -> tuple[Rule, ...]:
    """Return the rules for the trunk in SAM 2's code, where MLPs are lists of layers."""
    names = {"mlp.fc1": "mlp.layers.0", "mlp.fc2": "mlp.layers.1"}
    return (
        *(
            Rule(f"blocks.{block}.{ours}.*", f"blocks.{block}.{theirs}.*")
            for block in range(len(model.blocks))
            for ours, theirs in names.items()
        ),
        Rule("*", "*"),
    )


def sam2_file_trunk(model: HieraDet) -> tuple[Rule, ...]:
    """Return the rules for the trunk in a whole SAM 2 checkpoint."""
    return tuple(Rule(rule.native, f"image_encoder.trunk.{rule.foreign}") for rule in sam2_trunk(model))


def sam2_encoder(model: HieraDetFpn) -> tuple[Rule, ...]:
    """Return the rules for SAM 2's image encoder alone."""
    trunk = (Rule(f"trunk.{rule.native}", f"trunk.{rule.foreign}") for rule in sam2_trunk(model.trunk))
    return (*trunk, Rule("neck.*", "neck.*"))


def sam2(model: HieraDetFpn) -> tuple[Rule, ...]:
    """Return the rules for the image encoder in a SAM 2 checkpoint."""
    return tuple(Rule(rule.native, f"image_encoder.{rule.foreign}") for rule in sam2_encoder(model))


def transformers_sam2_trunk(model: HieraDet) -> tuple[Rule, ...]:
    """Return the rules for the trunk in transformers' Sam2Model."""
    names = {"norm1": "layer_norm1", "norm2": "layer_norm2", "mlp.fc1": "mlp.proj_in", "mlp.fc2": "mlp.proj_out"}
    blocks = (
        Rule(f"blocks.{block}.{ours}.*", f"vision_encoder.backbone.blocks.{block}.{theirs}.*")
        for block in range(len(model.blocks))
        for ours, theirs in names.items()
    )
    return (
        *blocks,
        Rule("patch_embed.proj.*", "vision_encoder.backbone.patch_embed.projection.*"),
        Rule("*", "vision_encoder.backbone.*"),
    )


def transformers_sam2(model: HieraDetFpn) -> tuple[Rule, ...]:
    """Return the rules for the vision encoder in transformers' Sam2Model."""
    necks = (Rule(f"neck.convs.{i}.conv.*", f"vision_encoder.neck.convs.{i}.*") for i in range(len(model.neck.convs)))
    trunk = (Rule(f"trunk.{rule.native}", rule.foreign) for rule in transformers_sam2_trunk(model.trunk))
    return (*necks, *trunk)
