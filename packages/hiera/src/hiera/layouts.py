"""Where other code bases keep a Hiera's tensors; our own names are timm's."""

from __future__ import annotations

from itertools import pairwise

from hiera.model import Hiera
from plm_core.layouts import Rule


def official(model: Hiera) -> tuple[Rule, ...]:
    """The original repository's names; only the head differs."""
    return (
        Rule("head.norm.*", "norm.*"),
        Rule("head.fc.*", "head.projection.*"),
        Rule("pos_embed*", "pos_embed*"),
        Rule("patch_embed.*", "patch_embed.*"),
        Rule("blocks.*", "blocks.*"),
    )


def transformers_backbone(model: Hiera) -> tuple[Rule, ...]:
    """Transformers' HieraModel."""
    rules = [
        Rule("pos_embed", "embeddings.position_embeddings"),
        Rule("patch_embed.proj.*", "embeddings.patch_embeddings.projection.*"),
        Rule("head.norm.*", "pooler.layernorm.*"),
    ]
    starts = [0, *(end + 1 for end in model.stage_ends)]
    for stage, (start, stop) in enumerate(pairwise(starts)):
        for block in range(start, stop):
            there = f"encoder.stages.{stage}.layers.{block - start}"
            rules += [
                Rule(f"blocks.{block}.norm1.*", f"{there}.layernorm_before.*"),
                Rule(f"blocks.{block}.norm2.*", f"{there}.layernorm_after.*"),
                Rule(f"blocks.{block}.*", f"{there}.*"),
            ]
    return tuple(rules)


def transformers(model: Hiera) -> tuple[Rule, ...]:
    """Transformers' HieraForImageClassification."""
    inner = (Rule(rule.native, f"hiera.{rule.foreign}") for rule in transformers_backbone(model))
    return (Rule("head.fc.*", "classifier.*"), *inner)
