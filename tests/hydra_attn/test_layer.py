"""The layer: timm's constructor and keys, the models of the goldens, norms, gate and masks."""

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors import safe_open
from timm.layers import Attention
from torch import nn

from hydra_attn import HydraAttention, hydra
from plm_core.errors import InputError, NotSupported, UnknownName

GOLDENS = Path(__file__).parent / "goldens"


@pytest.mark.parametrize("file", ["vit_hydra_last2", "vit_hydra_all"])
@torch.inference_mode()
def test_goldens(file):
    with safe_open(GOLDENS / f"{file}.safetensors", "pt") as opened:
        tensors = {key: opened.get_tensor(key) for key in opened.offset_keys()}
        config = json.loads(opened.metadata()["config"])
    model = timm.models.VisionTransformer(**config["model"]).eval()
    state = {key.removeprefix("weights."): x for key, x in tensors.items() if key.startswith("weights.")}
    model.load_state_dict(state)
    x = next(tensors[key] for key in tensors if key.startswith("inputs."))
    torch.testing.assert_close(model(x), tensors["outputs.unpatched_logits"], rtol=1e-5, atol=1e-5)
    for index in config["hydra_layers"]:
        block = model.blocks[index]
        layer = HydraAttention(block.attn.attn_dim, block.attn.num_heads, qkv_bias=True).eval()
        layer.load_state_dict(block.attn.state_dict())
        block.attn = layer
    torch.testing.assert_close(model(x), tensors["outputs.logits"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.forward_features(x), tensors["outputs.features"], rtol=1e-5, atol=1e-5)
    assert model.state_dict().keys() == state.keys()


@pytest.mark.parametrize("kernel", ["cosine", "mean"])
def test_norms_gate_and_projection_are_those_of_timm(kernel):
    torch.manual_seed(0)
    options = {"qkv_bias": True, "qk_norm": True, "scale_norm": True, "gated": True, "norm_layer": nn.LayerNorm}
    layer = HydraAttention(12, 3, kernel=kernel, **options).eval()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    assert layer.state_dict().keys() == Attention(12, 3, **options).state_dict().keys()
    x = torch.randn(2, 5, 12)
    q, k, v = layer.qkv(x).chunk(3, -1)
    q = torch.cat([layer.q_norm(head) for head in q.split(4, -1)], -1)
    k = torch.cat([layer.k_norm(head) for head in k.split(4, -1)], -1)
    expected = layer.proj(layer.norm(hydra(q, k, v, kernel)) * layer.gate(x).sigmoid())
    torch.testing.assert_close(layer(x), expected)
    expected = layer.proj(layer.norm(hydra(q, k, v, kernel, causal=True)) * layer.gate(x).sigmoid())
    torch.testing.assert_close(layer(x, is_causal=True), expected)


def test_a_mask_of_tokens_is_taken_and_any_other_is_refused():
    torch.manual_seed(0)
    layer = HydraAttention(8, 2).eval()
    x = torch.randn(2, 5, 8)
    keep = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]).bool()
    masked = layer(x, attn_mask=keep[:, None, None])
    torch.testing.assert_close(masked[:1, :3], layer(x[:1, :3]))
    torch.testing.assert_close(masked[1:], layer(x[1:]))
    torch.testing.assert_close(layer(x, attn_mask=keep[:1, None, None])[1, :3], layer(x[1:, :3])[0])
    for mask in (torch.zeros(2, 1, 1, 5), torch.ones(2, 1, 5, 5).bool(), torch.ones(5, 5).bool()):
        with pytest.raises(NotSupported, match=r"^attn_mask is torch\.\w+ \[.*\]; Hydra takes a mask of tokens"):
            layer(x, attn_mask=mask)


def test_it_trains():
    torch.manual_seed(0)
    layer = HydraAttention(8, 2, proj_drop=0.5)
    x = torch.randn(2, 5, 8)
    assert not torch.equal(layer(x), layer(x))  # dropout of the projection
    layer(x).square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in layer.parameters())


def test_bad_arguments_are_one_line():
    with pytest.raises(InputError, match=r"^attn_drop is 0\.1; Hydra has no attention map"):
        HydraAttention(8, 2, attn_drop=0.1)
    with pytest.raises(UnknownName, match="no kernel 'softmax'"):
        HydraAttention(8, 2, kernel="softmax")
