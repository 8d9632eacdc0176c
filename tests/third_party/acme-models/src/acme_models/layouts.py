"""The names that the authors of GatedViT gave to its tensors."""

from plm_core.layouts import Rule, reshape, split, transpose


def authors(model):
    """Return the rules for a GatedViT; `*` stands for the same characters on both sides."""
    return [
        Rule("patches.*", "stem.*"),
        Rule("class_token", "cls"),
        Rule("positions", "table", step=reshape((1, -1, model.num_features), (-1, model.num_features))),
        Rule("blocks.*.attn.kv.weight", ("layer.*.key.w", "layer.*.value.w"), step=split(0, 2)),
        Rule("blocks.*.attn.kv.bias", ("layer.*.key.b", "layer.*.value.b"), step=split(0, 2)),
        Rule("blocks.*.attn.gate.weight", "layer.*.gate.w", step=transpose()),
        Rule("blocks.*", "layer.*"),  # the rest of a block; the first rule that matches counts
        Rule("norm.*", "last_norm.*"),
        Rule("head.*", "classifier.*"),
    ]
