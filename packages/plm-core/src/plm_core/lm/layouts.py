"""The tensor names that transformers and the original give to a Perception Language Model."""

from __future__ import annotations

from plm_core.errors import NotSupported
from plm_core.layouts import IGNORE, Rule, prefixed, uninterleave
from plm_core.lm.model import PerceptionLM
from plm_core.weights import rules_of

Rules = tuple[Rule, ...]
TOWER = "vision.tower."


def transformers(model: PerceptionLM) -> Rules:
    """Return the rules for transformers' PerceptionLM, whose tower is timm's."""
    base = model.decoder.base_model_prefix
    return (
        *_tower(model, "timm", "model.vision_tower.timm_model."),
        Rule("vision.projector.*", "model.multi_modal_projector.*"),
        Rule(f"decoder.{base}.*", "model.language_model.*"),
        Rule("decoder.lm_head.*", "lm_head.*"),
    )


def official(model: PerceptionLM) -> Rules:
    """Return the rules for the original's consolidated file. Its decoder rotates adjacent pairs of channels.

    Raises:
        NotSupported: The decoder is no Llama.
    """
    config = model.decoder.config
    if config.model_type != "llama":
        raise NotSupported(f"the original has a Llama as its decoder, not a {config.model_type}")
    layer = "decoder.model.layers."
    tied = (Rule((), "output.tied_module.weight", IGNORE),) if model.tied else ()
    return (
        *_tower(model, "official", "vision_model."),
        Rule("vision.projector.linear_1.*", "vision_projector.projector.0.*"),
        Rule("vision.projector.linear_2.*", "vision_projector.projector.2.*"),
        Rule("decoder.model.embed_tokens.weight", "tok_embeddings.weight"),
        Rule("decoder.model.norm.weight", "norm.weight"),
        Rule("decoder.lm_head.weight", "output.weight"),
        *tied,
        *(
            rule
            for i in range(config.num_hidden_layers)
            for rule in prefixed(f"{layer}{i}.", f"layers.{i}.", _layer(config.num_attention_heads, config))
        ),
    )


def _layer(heads: int, config: object) -> Rules:
    kv_heads: int = getattr(config, "num_key_value_heads", heads)
    return (
        Rule("self_attn.q_proj.weight", "attention.wq.weight", uninterleave(heads)),
        Rule("self_attn.k_proj.weight", "attention.wk.weight", uninterleave(kv_heads)),
        Rule("self_attn.v_proj.weight", "attention.wv.weight"),
        Rule("self_attn.o_proj.weight", "attention.wo.weight"),
        Rule("mlp.gate_proj.weight", "feed_forward.w1.weight"),
        Rule("mlp.up_proj.weight", "feed_forward.w3.weight"),
        Rule("mlp.down_proj.weight", "feed_forward.w2.weight"),
        Rule("input_layernorm.weight", "attention_norm.weight"),
        Rule("post_attention_layernorm.weight", "ffn_norm.weight"),
    )


def _tower(model: PerceptionLM, layout: str, foreign: str) -> Rules:
    """Return the rules for the tower: those of its own layout, or its own names where it has none."""
    return prefixed(TOWER, foreign, rules_of(model.vision.tower, layout) or (Rule("*", "*"),))
