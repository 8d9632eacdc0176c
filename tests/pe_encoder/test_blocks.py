"""Transforms reach into the towers: Token Merging with rotary positions, Hydra Attention, and packed layers."""

import pytest
import torch

import plm_core
import tome
from plm_core.testing import check_blocks

IMAGES = torch.rand(2, 3, 48, 40, generator=torch.Generator().manual_seed(0))
VARIANTS = {
    "core": {},
    "no class token": {"use_cls_token": False},
    "lang": {"pool_type": "none", "use_ln_post": False, "output_dim": None, "ls_init_value": 0.1},
    "spatial": {"pool_type": "none", "use_ln_post": False, "output_dim": None, "global_pool": "avg"},
    "class token": {"pool_type": "tok"},
    "no rotary positions": {"use_rope2d": False},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_the_pieces_are_the_blocks(tower, name):
    check_blocks(tower(**VARIANTS[name]), IMAGES)


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_merging_no_token_changes_nothing(tower, name):
    model = tower(**VARIANTS[name])
    plain = model(IMAGES)
    tome.apply(model, r=0)
    torch.testing.assert_close(model(IMAGES), plain, atol=1e-6, rtol=1e-6)


def merged_slowly(model, image, r):
    """Merge ``r`` tokens per block of one image by the paper's steps in float64: an independent reference.

    The similarity is that of the keys before they are turned. A merged token keeps the rotation of the token that it
    is merged into, and counts as often in the attention as it has patches.
    """
    tokens, rope = model.patch_tokens(image)
    tokens, rope = tokens[0].double(), rope.double().unflatten(-1, (-1, 2))
    rope = torch.complex(rope[..., 0], rope[..., 1])
    members = [[i] for i in range(len(tokens))]
    for block in model.double().blocks:
        sizes = torch.tensor([len(m) for m in members], dtype=torch.float64)
        heads = block.attn.num_heads
        normed = block.norm1(tokens)
        q, k, v = block.attn.qkv(normed).view(len(tokens), 3, heads, -1).unbind(1)

        def turned(x, rope=rope):
            pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) * rope[:, None]
            return torch.view_as_real(pairs).flatten(-2)

        logits = torch.einsum("qhd,khd->hqk", turned(q), turned(k)) / q.shape[-1] ** 0.5 + sizes.log()
        y = torch.einsum("hqk,khd->qhd", logits.softmax(-1), v).flatten(1)
        tokens = tokens + block.ls1(block.attn.proj(y))
        metric = torch.nn.functional.normalize(k.mean(1), dim=-1)
        # the class token neither merges nor is merged into; places alternate between the two sets
        first, second = list(range(0, len(tokens), 2)), list(range(1, len(tokens), 2))
        scores = metric[first] @ metric[second].T
        scores[0] = -torch.inf
        best = scores.max(1)
        merging = sorted(range(1, len(first)), key=lambda i: -best.values[i])[:r]
        total = tokens * sizes[:, None]
        gone = set()
        for i in merging:
            source, target = first[i], second[int(best.indices[i])]
            total[target] = total[target] + total[source]
            members[target] = members[target] + members[source]
            gone.add(source)
        kept = [i for i in first if i not in gone] + second  # the paper's order
        members = [members[i] for i in kept]
        tokens = total[kept] / torch.tensor([len(m) for m in members], dtype=torch.float64)[:, None]
        rope = rope[kept]
        tokens = tokens + block.ls2(block.mlp(block.norm2(tokens)))
    whole = torch.empty(sum(map(len, members)), tokens.shape[1], dtype=torch.float64)
    for token, places in zip(tokens, members, strict=True):
        whole[places] = token
    return model.forward_head(whole[None])


@torch.no_grad()
def test_token_merging_is_that_of_a_slow_reference(tower):
    for seed in range(5):
        image = torch.rand(1, 3, 48, 40, generator=torch.Generator().manual_seed(seed))
        model = tower()
        tome.apply(model, r=4)
        torch.testing.assert_close(model(image).double(), merged_slowly(tower(), image, 4), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_transforms_can_be_undone_in_a_clip(clip):
    image = torch.rand(1, 3, 32, 32)
    plain = clip.encode_image(image)
    for name, options in (("tome", {"r": 2}), ("hydra", {}), ("packed", {"tune": False})):
        plm_core.apply(clip, name, **options)
        with torch.inference_mode():
            changed = clip.encode_image(image)
        assert torch.allclose(changed, plain, atol=1e-4) == (name == "packed")
        plm_core.transforms.remove(clip, name)
        assert torch.equal(clip.encode_image(image), plain)
