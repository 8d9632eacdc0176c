"""The scores of patches: the paper's formula, each kernel, and what is refused."""

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

import hydra_attn
from hydra_attn.api import altered_blocks
from plm_core.errors import InputError, NotSupported

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "num_heads": 3, "depth": 3, "num_classes": 5}
X = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def small(**options):
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", **SMALL | options).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def test_they_are_the_papers_formula():
    model = hydra_attn.apply(small(), 1)
    block = model.blocks[-1]
    with torch.no_grad():
        tokens = model._pos_embed(model.patch_embed(X))
        for earlier in model.blocks[:-1]:
            tokens = earlier(tokens)
        q, k, v = block.attn.qkv(block.norm1(tokens)).chunk(3, -1)
        terms = F.normalize(q[:, :1], dim=-1) * F.normalize(k, dim=-1) * v  # [B, T, D], of the class token
        everywhere = hydra_attn.hydra(q, k, v)
    out = everywhere.clone().requires_grad_()
    y = tokens + block.attn.proj(out)
    logits = model.head(model.norm(y + block.mlp(block.norm2(y)))[:, 0])
    torch.testing.assert_close(logits, model(X))
    for classes in (None, torch.tensor([3, 1])):
        chosen = logits.argmax(1) if classes is None else classes
        g = torch.autograd.grad(logits[range(2), chosen].sum(), out, retain_graph=True)[0][:, 0]
        expected = (terms @ g[:, :, None])[:, 1:, 0]
        scores = hydra_attn.patch_scores(model, X, classes)
        assert scores.shape == (2, 16)
        torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)
    assert len(altered_blocks(model)) == 1
    with torch.inference_mode():
        torch.testing.assert_close(hydra_attn.patch_scores(model, X, classes), scores)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("kernel", hydra_attn.KERNELS)
def test_a_patch_without_a_value_has_no_score(kernel):
    model = hydra_attn.apply(small(), "all", kernel=kernel)
    with torch.no_grad():
        model.blocks[-1].attn.qkv.weight[48:].zero_()
        model.blocks[-1].attn.qkv.bias[48:].zero_()
    assert torch.equal(hydra_attn.patch_scores(model, X), torch.zeros(2, 16))


def test_what_has_no_scores():
    with pytest.raises(InputError, match=r"^Hydra is not applied to this model"):
        hydra_attn.patch_scores(small(), X)
    with pytest.raises(InputError, match=r"^model is in training mode"):
        hydra_attn.patch_scores(hydra_attn.apply(small()).train(), X)
    with pytest.raises(NotSupported, match=r"^VisionTransformer has no class token"):
        hydra_attn.patch_scores(hydra_attn.apply(small(class_token=False, global_pool="avg")), X)
    model = hydra_attn.apply(small(num_classes=0, global_pool=""))
    with pytest.raises(NotSupported, match=r"^VisionTransformer returns no logits"):
        hydra_attn.patch_scores(model, X)
    assert len(altered_blocks(model)) == 2
    assert model(X).shape == (2, 17, 24)
