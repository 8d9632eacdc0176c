"""Embeddings of patches in the space of texts, and segmentations by them."""

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import pe_encoder
import plm_core
from pe_encoder import dense
from plm_core import InputError, NotSupported

CLOSE = {"atol": 1e-5, "rtol": 1e-4}


@pytest.fixture
def images():
    return torch.randn(2, 3, 24, 40, generator=torch.Generator().manual_seed(1))


def test_a_patch_goes_through_pool_and_head_as_if_it_were_the_only_token(tower, images):
    model = tower()
    tokens = model.norm(model.forward_features(images, strip_cls_token=True))
    expected = torch.stack([model.head(model.attn_pool(tokens[:, i : i + 1])) for i in range(15)], -1)
    embeddings = dense.patch_embeddings(model, images, window=1, last="keep")
    assert embeddings.shape == (2, 10, 3, 5)
    torch.testing.assert_close(embeddings.flatten(2), expected, **CLOSE)
    alone = model.head(tokens).transpose(1, 2)
    assert F.cosine_similarity(alone, expected, dim=1).abs().mean() < 0.6, "the head alone gives something else"


def test_a_window_over_the_whole_image_gives_the_embedding_of_the_image(tower, images):
    model = tower(use_cls_token=False)
    everywhere = dense.patch_embeddings(model, images, window=9, last="keep")
    torch.testing.assert_close(everywhere, model(images)[:, :, None, None].expand_as(everywhere), **CLOSE)


def test_a_window_is_cut_off_at_the_edge(tower, images):
    model = tower()
    tokens = model.norm(model.forward_features(images, strip_cls_token=True)).unflatten(1, (3, 5))
    embeddings = dense.patch_embeddings(model, images, window=3, last="keep")
    for row, column, window in ((0, 0, tokens[:, :2, :2]), (1, 4, tokens[:, :, 3:]), (1, 2, tokens[:, :, 1:4])):
        expected = model.head(model.attn_pool(window.flatten(1, 2)))
        torch.testing.assert_close(embeddings[:, :, row, column], expected, **CLOSE)


def test_all_attentions_of_the_last_block_agree_where_there_is_one_token_only(tower):
    model = tower(use_cls_token=False)
    image = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    kept = dense.patch_embeddings(model, image)
    for last in ("self", "value", "own"):
        torch.testing.assert_close(dense.patch_embeddings(model, image, last=last), kept, **CLOSE)
    skipped = dense.patch_embeddings(model, image, last="skip")
    torch.nn.init.zeros_(model.blocks[-1].attn.proj.weight)
    torch.nn.init.zeros_(model.blocks[-1].attn.proj.bias)
    torch.testing.assert_close(dense.patch_embeddings(model, image), skipped, **CLOSE)
    assert not torch.allclose(kept, skipped)


def test_by_default_queries_attend_to_queries_and_keys_to_keys(tower, images):
    model = tower()
    tokens, rope = model.patch_tokens(images)
    for block in model.blocks[:-1]:
        tokens = block(tokens, rope=rope)
    last = model.blocks[-1]
    q, k, v = last.attn.project(last.norm1(tokens), rope)
    weights = sum((x @ x.mT / x.shape[-1] ** 0.5).softmax(-1) for x in (q, k)) / 2
    tokens = last.mlp_residual(tokens + last.ls1(last.attn.proj((weights @ v).transpose(1, 2).flatten(2))))
    patch = model.head(model.attn_pool(model.norm(tokens)[:, 8:9]))
    embeddings = dense.patch_embeddings(model, images, window=1)
    torch.testing.assert_close(embeddings[:, :, 1, 2], patch, **CLOSE)


def test_the_attentions_differ_where_there_are_several_tokens(tower, images):
    results = [dense.patch_embeddings(tower(), images, last=last) for last in dense.ATTENTIONS]
    for i, one in enumerate(results):
        assert not any(torch.allclose(one, other, atol=1e-3) for other in results[:i])


def test_other_poolings_are_followed_too(tower, images):
    model = tower(pool_type="avg")
    tokens = model.norm(model.forward_features(images, strip_cls_token=True))
    expected = model.head(tokens).transpose(1, 2).unflatten(2, (3, 5))
    torch.testing.assert_close(dense.patch_embeddings(model, images, last="keep"), expected, **CLOSE)


def test_maps_are_cosines_or_shares(clip, images):
    texts = torch.randn(10, 3, generator=torch.Generator().manual_seed(2))
    maps = dense.text_maps(clip, images, texts)
    patch = dense.patch_embeddings(clip.visual, images)[1, :, 2, 3]
    torch.testing.assert_close(maps[1, :, 2, 3], F.cosine_similarity(patch[:, None], texts, dim=0), **CLOSE)
    shares = dense.text_maps(clip, images, texts, softmax=True)
    torch.testing.assert_close(shares, (100 * maps).softmax(1), **CLOSE)


def test_maps_are_enlarged_to_the_patches_and_repeated_beyond_the_last():
    maps = torch.arange(6.0).view(1, 1, 2, 3)
    large = dense.upsample(maps, (19, 26), 8)
    assert large.shape == (1, 1, 19, 26)
    torch.testing.assert_close(large[0, 0, :16, :24][4::8, 4::8].round(), maps[0, 0])
    assert (large[..., 16:, :] == large[..., 15:16, :]).all()
    assert (large[..., 24:] == large[..., 23:24]).all()
    assert torch.equal(dense.upsample(maps[..., :2], 18, 8), dense.upsample(maps[..., :2], (18, 18), 8))


def test_the_parts_of_an_image_get_their_texts(clip):
    """Also with random weights, if the texts are embedded as patches of their colour are."""
    colours = torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    plain = [dense.patch_embeddings(clip, c.view(1, 3, 1, 1).expand(1, 3, 32, 32)) for c in colours]
    texts = torch.stack([p.mean((0, 2, 3)) for p in plain], -1)
    image = Image.new("RGB", (90, 60), (255, 0, 0))
    image.paste((0, 255, 0), (45, 0, 90, 60))
    image.paste((0, 0, 255), (0, 30, 45, 60))
    regions = dense.segment(clip, image, texts, pe_encoder.preprocess(64))
    assert regions.shape == (60, 90)
    assert (regions[5:20, 5:35] == 0).mean() > 0.8
    assert (regions[5:55, 55:85] == 1).mean() > 0.8
    assert (regions[40:55, 5:35] == 2).mean() > 0.8


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m, x: dense.patch_embeddings(m, x, window=2), InputError, "window is 2; an odd number"),
        (lambda m, x: dense.patch_embeddings(m, x, last="first"), InputError, "last 'first' is not allowed"),
        (lambda m, x: dense.text_maps(m, x, torch.rand(9, 2)), InputError, r"\[9, 2\]; \[10, texts\] is expected"),
        (lambda m, x: dense.upsample(torch.rand(1, 1, 3, 5), (40, 24), 8), InputError, "3 x 5 patches of 8 pixels"),
        (lambda m, x: dense.upsample(torch.rand(1, 1, 3, 3), 23, 8), InputError, r"size is \(23, 23\); 3 x 3 patches"),
        (lambda m, x: dense.patch_embeddings(torch.nn.Identity(), x), NotSupported, "model is a Identity"),
    ],
)
def test_wrong_arguments_are_refused(tower, images, call, error, message):
    with pytest.raises(error, match=message):
        call(tower(), images)


def test_an_aligned_tower_cannot_be_compared_with_texts(tower, images):
    spatial = tower(output_dim=None, pool_type="none", use_ln_post=False)
    with pytest.raises(NotSupported, match="dropped the last layers of the CLIP"):
        dense.patch_embeddings(spatial, images)


def test_merged_tokens_come_apart_again(tower, images):
    model = tower()
    plain = dense.patch_embeddings(model, images, last="keep")
    plm_core.apply(model, "tome", r=2)
    merged = dense.patch_embeddings(model, images)
    assert merged.shape == plain.shape
    assert torch.equal(merged, dense.patch_embeddings(model, images, last="keep")), (
        "a changed block keeps its attention"
    )
    assert not torch.allclose(merged, plain, atol=1e-4)
    with pytest.raises(NotSupported, match="needs the model's own attention"):
        dense.patch_embeddings(model, images, last="value")


def test_a_model_that_drops_tokens_has_no_map(tower, images):
    model = tower()
    model.blocks[-1].register_forward_hook(lambda block, args, output: output[:, :-1])
    with pytest.raises(NotSupported, match="so its tokens are no map"):
        dense.patch_embeddings(model, images, last="keep")
