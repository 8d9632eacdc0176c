"""The image towers of open_clip, where it is installed: their blocks, their embedding, and Token Merging in them."""

import copy

import pytest
import torch
from torch import nn

import plm_core
import tome
from plm_core import NotSupported, blocks
from plm_core.testing import check_blocks

open_clip = pytest.importorskip("open_clip")
from open_clip.transformer import QuickGELU, VisionTransformer  # noqa: E402

TOWER = {"image_size": 32, "patch_size": 8, "width": 48, "layers": 3, "heads": 3, "mlp_ratio": 2.0, "output_dim": 24}
IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
POOL = {"attentional_pool": True, "attn_pooler_heads": 4, "attn_pooler_queries": 5}
VARIANTS = {
    "plain": {},
    "layer scale": {"ls_init_value": 0.5},
    "OpenAI": {"act_layer": QuickGELU},
    "no norm before": {"no_ln_pre": True},
    "average": {"pool_type": "avg", "final_ln_after_pool": True},
    "fixed positions": {"pos_embed_type": "sin_cos_2d"},
    "CoCa": {**POOL, "output_tokens": True},
    "with tokens": {"output_tokens": True},
}


def shaken(model):
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


def tower(**options):
    return shaken(VisionTransformer(**TOWER | options))


def tensors(output):
    return output if isinstance(output, tuple) else (output,)


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
@torch.no_grad()
def test_the_pieces_make_up_the_blocks(options):
    model = tower(**options)
    check_blocks(model, IMAGES)
    view = blocks.view(model)
    assert view.tokens == blocks.Tokens(class_tokens=1)
    assert view.pools_patches == ("attentional_pool" in options or options.get("pool_type") == "avg")


def test_other_blocks_are_refused():
    """Those with normalized queries and the like are another class; those of older releases have the batch second."""
    with pytest.raises(NotSupported, match=r"CustomResidualAttentionBlock.*open_clip's ResidualAttentionBlock with"):
        blocks.view(tower(qk_norm=True))
    model = tower()
    for block in model.transformer.resblocks:
        block.attn.batch_first = False
    with pytest.raises(NotSupported, match="have the batch second; batch_first=True is needed"):
        blocks.view(model)
    other = torch.rand(2, 17, 48)
    view = blocks.view(tower()).blocks[0]
    for name in ("k_x", "v_x"):
        with pytest.raises(NotSupported, match=r"resblocks\.0 attends to other tokens than its own"):
            view.qkv(other, **{name: other})


@pytest.mark.parametrize("shape", [(17, 17), (6, 17, 17)], ids=str)
@torch.no_grad()
def test_masks(shape):
    view, x = blocks.view(tower()).blocks[1], torch.rand(2, 17, 48)
    mask = torch.rand(shape) * -5
    torch.testing.assert_close(blocks.run_block(view, x, attn_mask=mask), view.block(x, attn_mask=mask))
    with pytest.raises(NotSupported, match="attention with attn_mask cannot be restricted"):
        view.select({"attn_mask": mask}, torch.arange(5).expand(2, -1))


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
@torch.no_grad()
def test_the_embedding_is_the_projected_one(options):
    model = tower(**options)
    assert torch.equal(plm_core.embed(model, IMAGES), tensors(model(IMAGES))[0])


@torch.no_grad()
def test_a_whole_model_merges_and_embeds_images():
    torch.manual_seed(0)
    vision = {"layers": 3, "width": 64, "patch_size": 8, "image_size": 32}
    text = {"context_length": 8, "vocab_size": 40, "width": 32, "heads": 2, "layers": 2}
    clip = shaken(open_clip.CLIP(24, vision, text))
    words = torch.randint(1, 40, (2, 8))
    image, sentence = clip.encode_image(IMAGES), clip.encode_text(words)
    tome.apply(clip, r=4)
    assert torch.equal(clip.encode_text(words), sentence)  # the text tower is another class
    assert tome.trace(clip.visual, IMAGES).tokens == (13, 9, 5)
    merged = clip.encode_image(IMAGES)
    assert torch.cosine_similarity(merged, image).min() > 0.9
    assert torch.equal(plm_core.embed(clip.visual, IMAGES), merged)
    assert not torch.equal(merged, image)
    tome.remove(clip)
    assert torch.equal(clip.encode_image(IMAGES), image)


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
@torch.no_grad()
def test_merging_keeps_shapes_and_can_be_removed(options):
    model = tower(**options)
    before = tensors(model(IMAGES))
    tome.apply(model, r=4, unmerge=True if options == {"output_tokens": True} else None)
    during = tensors(copy.deepcopy(model)(IMAGES))
    shapes = [t.shape for t in before]
    assert [t.shape for t in during] == shapes
    assert not torch.allclose(during[0], before[0])
    tome.remove(model)
    assert all(map(torch.equal, tensors(model(IMAGES)), before))


@torch.no_grad()
def test_maps_have_all_patches_in_their_places():
    model = tower()
    plain = model.forward_intermediates(IMAGES)["image_intermediates"]
    tome.apply(model, r=4)
    maps = model.forward_intermediates(IMAGES, indices=[0, 2], stop_early=True)["image_intermediates"]
    assert [m.shape for m in maps] == [(2, 48, 4, 4)] * 2
    for m, left in zip(maps, (12, 4), strict=True):
        assert [len(sample.flatten(1).mT.unique(dim=0)) for sample in m] == [left] * 2
    tome.apply(tome.remove(model), r=0)
    for m, same in zip(model.forward_intermediates(IMAGES)["image_intermediates"], plain, strict=True):
        torch.testing.assert_close(m, same, atol=1e-4, rtol=1e-4)


def test_checkpointed_blocks_give_the_same_gradients():
    model = tower()
    tome.apply(model, r=4)
    gradients = []
    for checkpointing in (False, True):
        model.set_grad_checkpointing(checkpointing)
        model.zero_grad()
        model.train()(IMAGES).sum().backward()
        gradients.append(model.transformer.resblocks[0].attn.in_proj_weight.grad.clone())
    torch.testing.assert_close(*gradients)
