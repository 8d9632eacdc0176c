"""The scores of patches: the paper's formula, each kernel, and what is refused."""

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

import hydra_attn
import plm_core
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
    with pytest.raises(InputError, match=r"^Hydra is not applied to this VisionTransformer"):
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
    with pytest.raises(NotSupported, match=r"^VisionTransformer returns no logits"):
        hydra_attn.patch_scores(hydra_attn.apply(small(num_classes=0)), X)
    with pytest.raises(NotSupported, match=r"^the logits of VisionTransformer do not depend on its class token"):
        hydra_attn.patch_scores(hydra_attn.apply(small(global_pool="avg")), X)
    for name, options in (("packed", {"tune": False}), ("tome", {"r": 1})):
        if name == "tome":
            pytest.importorskip("tome")
        other = plm_core.apply(hydra_attn.apply(small()), name, **options)
        with pytest.raises(NotSupported, match=rf"^'{name}' is applied to the model, too"):
            hydra_attn.patch_scores(other, X)


@pytest.mark.parametrize(
    ("x", "classes", "message"),
    [
        (X[0], None, r"^x is \[3, 32, 32\]; it is a tensor \[B, C, H, W\]"),
        (X.numpy(), None, r"^x is a ndarray"),
        (X, [1, 2], r"^classes is a list; it is an int64 tensor with a class for each image, \[2\]"),
        (X, torch.tensor([1]), r"^classes is torch.int64 \[1\]"),
        (X, torch.tensor([1.0, 2.0]), r"^classes is torch.float32 \[2\]"),
        (X, torch.tensor([1, 5]), r"^classes has \[1, 5\]; numbers from 0 to 4 are allowed"),
        (X, torch.tensor([-1, 0]), r"^classes has \[-1, 0\]"),
    ],
)
def test_arguments_that_are_not_allowed(x, classes, message):
    with pytest.raises(InputError, match=message):
        hydra_attn.patch_scores(hydra_attn.apply(small()), x, classes)
    with pytest.raises(InputError, match=r"^model is a str; it is a torch.nn.Module"):
        hydra_attn.patch_scores("vit", X)
