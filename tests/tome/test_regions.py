"""The parallel regions of blocks that merge: beside a busy process each waits for a time slice, however small it is."""

import pytest
import torch
from timm.models import VisionTransformer

import tome
from plm_core.errors import NotSupported
from plm_core.testing import count_regions


@pytest.fixture(scope="module")
def vit():
    """Two blocks of the width and number of tokens of ViT-B, with a small MLP."""
    return VisionTransformer(
        img_size=224,
        patch_size=16,
        embed_dim=768,
        num_heads=12,
        depth=2,
        mlp_ratio=1,
        num_classes=0,
        weight_init="skip",
    ).eval()


def regions_of(model, tokens):
    try:
        with torch.inference_mode(), count_regions() as regions:
            model.blocks(tokens)
    except NotSupported as e:
        pytest.skip(str(e))
    return regions


@pytest.mark.parametrize(("batch_size", "r"), [(1, 8), (4, 16)])
def test_merging_adds_at_most_a_quarter_of_the_regions_of_a_block(vit, batch_size, r):
    tokens = torch.rand(batch_size, 197, 768)
    plain = regions_of(vit, tokens)
    with tome.applied(vit, r=r):
        merging = regions_of(vit, tokens)
    assert plain.total < merging.total <= 1.25 * plain.total, merging.by_operator - plain.by_operator


def test_blocks_that_merge_nothing_open_no_more_regions(vit):
    tokens = torch.rand(1, 197, 768)
    plain = regions_of(vit, tokens)
    with tome.applied(vit, r=0):
        assert regions_of(vit, tokens).by_operator == plain.by_operator
