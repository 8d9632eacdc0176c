"""How transforms reach into a GatedViT."""

from functools import partial

from plm_core.blocks import BlockView, ModelView, Tokens


def view(model):
    """Return the view of a GatedViT."""
    blocks = tuple(view_block(block, f"blocks.{i}") for i, block in enumerate(model.blocks))
    return ModelView(model, blocks, Tokens(class_tokens=1))


def view_block(block, name):
    """Return the view of a block of a GatedViT under its dotted path."""
    attn = block.attn

    def qkv(normed, **context):
        q, k, v = attn.qkv(normed)
        # the attention will divide by sqrt(D), and needs as many heads of k and v as of q
        return q * attn.scale * q.shape[-1] ** 0.5, k.expand_as(q), v.expand_as(q)

    def proj(attended, normed):
        joined = attended.transpose(1, 2).flatten(2)  # [B, H, N, D] -> [B, N, C]
        return block.layer_scale * attn.proj(joined * attn.gate(normed).sigmoid())

    return BlockView(
        block=block,
        name=name,
        num_heads=attn.num_heads,
        normalize=block.norm1,
        qkv=qkv,
        proj=proj,
        residual=lambda x, normed: x,
        mlp_residual=lambda x: x + block.mlp(block.norm2(x)),
        view_of=partial(view_block, name=name),
        hidden=(attn,),  # its forward is never called
    )
