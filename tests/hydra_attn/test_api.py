"""The transform: every family, which blocks, with Token Merging in either order, undone, copied, compiled."""

import copy
import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors import safe_open
from torch import nn

import hydra_attn
import plm_core
from hydra_attn.api import Attention, altered_blocks, indices
from plm_core import blocks
from plm_core.blocks.examples import make, tensor_of
from plm_core.errors import InputError, NotSupported, UnknownName
from plm_core.hookspecs import BlockAdapter
from plm_core.registry import registry

GOLDENS = Path(__file__).parent / "goldens"
ADAPTERS = {adapter.name: adapter for adapter in registry().declared(BlockAdapter)}
WINDOWS = ("timm-hiera", "timm-swin", "torchvision-swin", "transformers-hiera", "transformers-swin")
REFUSED = dict.fromkeys(WINDOWS, "windowed attention") | {
    "timm-beit": "adds relative positions to the logits of its attention, and Hydra has no logits"
}
"""What is refused, and why. Those with windows have a view for no transform."""


def small(name="vit_tiny_patch16_224", **options):
    torch.manual_seed(0)
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "num_heads": 3, "depth": 4, "num_classes": 5} | options
    model = timm.create_model(name, **options).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


@pytest.fixture
def model():
    return small()


X = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def answer(model, x=X):
    return tensor_of(model(x))


@pytest.mark.parametrize("file", ["vit_hydra_last2", "vit_hydra_all"])
@torch.inference_mode()
def test_goldens(file):
    with safe_open(GOLDENS / f"{file}.safetensors", "pt") as opened:
        tensors = {key: opened.get_tensor(key) for key in opened.offset_keys()}
        config = json.loads(opened.metadata()["config"])
    model = timm.models.VisionTransformer(**config["model"]).eval()
    model.load_state_dict({k.removeprefix("weights."): x for k, x in tensors.items() if k.startswith("weights.")})
    x = next(tensors[key] for key in tensors if key.startswith("inputs."))
    layers = len(config["hydra_layers"])
    hydra_attn.apply(model, layers)
    torch.testing.assert_close(model(x), tensors["outputs.logits"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.forward_features(x), tensors["outputs.features"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(hydra_attn.remove(model)(x), tensors["outputs.unpatched_logits"], rtol=1e-5, atol=1e-5)


def by_hand(q, k, v, bias=None):
    """Attend by the formula of the paper, in float64."""
    heads = q.shape[1]
    q, k, v = (x.transpose(1, 2).flatten(2).double() for x in (q, k, v))
    q, k = (x / x.norm(dim=-1, keepdim=True) for x in (q, k))
    factors = 1 if bias is None else bias[:, 0, 0, :, None].exp()
    y = q * (factors * k * v).sum(1, keepdim=True)
    return y.float().unflatten(2, (heads, -1)).transpose(1, 2)


@pytest.mark.parametrize("name", sorted(ADAPTERS))
def test_every_family_is_changed_as_its_pieces_say_or_refused(name):
    try:
        model, x = make(ADAPTERS[name])
    except (plm_core.MissingDependency, ModuleNotFoundError) as e:
        pytest.skip(str(e))
    g = torch.Generator().manual_seed(3)
    for parameter in model.parameters():  # large enough to reveal mistakes
        nn.init.normal_(parameter, std=0.15, generator=g)
    before = answer(model, x)
    if name in REFUSED:
        with pytest.raises(NotSupported, match=REFUSED[name]):
            hydra_attn.apply(model, "all")
        assert torch.equal(answer(model, x), before)
        return
    hydra_attn.apply(model, "all")
    changed = answer(model, x)
    assert not torch.allclose(changed, before, rtol=1e-3)
    assert torch.equal(answer(hydra_attn.remove(model), x), before)
    for view in blocks.find(model).values():
        for block in view.blocks:
            blocks.alter(block, lambda view: replace(view, attention=by_hand))
    torch.testing.assert_close(answer(model, x), changed, rtol=1e-3, atol=1e-4 * changed.abs().max().item())


def test_every_refusal_is_of_a_family():
    assert REFUSED.keys() <= ADAPTERS.keys()


def test_which_blocks():
    assert indices("all", 3) == [0, 1, 2]
    assert [indices(2, 12, order) for order in ("backward", "forward", "interleaved")] == [[10, 11], [0, 1], [5, 11]]
    assert indices(8, 12, "interleaved") == [0, 2, 3, 5, 6, 8, 9, 11]
    assert indices([3, -1, 0], 12) == [0, 3, 11]
    assert indices((1,), 2, "forward") == [1]


@pytest.mark.parametrize(
    ("layers", "order", "changed"), [(1, "forward", [0]), ([2], "forward", [2]), (2, "backward", [2, 3])]
)
def test_only_those_blocks_are_changed(model, layers, order, changed):
    hydra_attn.apply(model, layers=layers, order=order)
    assert altered_blocks(model) == [model.blocks[index] for index in changed]
    other = small()
    for index in changed:
        layer = hydra_attn.HydraAttention(24, 3, qkv_bias=True).eval()
        layer.load_state_dict(other.blocks[index].attn.state_dict())
        other.blocks[index].attn = layer
    torch.testing.assert_close(answer(model), answer(other))


def test_kernels_differ(model):
    answers = [answer(hydra_attn.apply(copy.deepcopy(model), "all", kernel=name)) for name in hydra_attn.KERNELS]
    for number, one in enumerate(answers):
        assert not any(torch.allclose(one, other, rtol=1e-3) for other in answers[number + 1 :])


def test_rotations_are_an_option():
    model = small("vit_small_patch16_dinov3")
    before = answer(model)
    rotated = answer(hydra_attn.apply(model, "all"))
    hydra_attn.apply(hydra_attn.remove(model), "all", rotate=False)
    plain = answer(model)
    assert not torch.allclose(rotated, plain, rtol=1e-3)
    moved = torch.roll(X, (8, 16), (2, 3))  # by whole patches
    torch.testing.assert_close(answer(model, moved), plain)  # nothing else in this model tells where a patch is
    assert not torch.allclose(answer(hydra_attn.apply(hydra_attn.remove(model), "all"), moved), rotated, rtol=1e-3)
    assert torch.equal(answer(hydra_attn.remove(model)), before)


@pytest.mark.parametrize("layers", [1, "all"])
def test_with_token_merging_in_either_order(model, layers):
    tome = pytest.importorskip("tome")
    plain = answer(model)
    both = {}
    for order in (("tome", "hydra"), ("hydra", "tome")):
        for name in order:
            plm_core.apply(model, name, **({"r": 3} if name == "tome" else {"layers": layers}))
        both[order] = answer(model)
        assert tome.trace(model, X).tokens[-1] == 17 - 4 * 3
        plm_core.remove(model)
        assert torch.equal(answer(model), plain)
    first, second = both.values()
    assert torch.equal(first, second)
    assert not torch.allclose(first, answer(hydra_attn.apply(model, layers)), rtol=1e-3)


def test_a_merged_token_counts_as_often_as_it_has_patches(model):
    pytest.importorskip("tome")
    with torch.no_grad():
        model.pos_embed.zero_()
    x = torch.ones(2, 3, 32, 32)  # all patches are alike, so merging loses nothing
    hydra_attn.apply(model, "all")
    expected = answer(model, x)
    for prop_attn in (True, False):
        merged = answer(plm_core.apply(model, "tome", r=3, prop_attn=prop_attn), x)
        assert torch.allclose(merged, expected, rtol=1e-4, atol=1e-5) == prop_attn
        plm_core.remove(model, "tome")


def test_either_is_removed_from_below_the_other(model):
    tome = pytest.importorskip("tome")
    plain = answer(model)
    merged = answer(tome.apply(model, r=3))
    hydra_attn.apply(model, 2)
    hydra = answer(tome.remove(model))
    assert torch.equal(hydra, answer(hydra_attn.apply(small(), 2)))
    tome.apply(model, r=3)
    assert torch.equal(answer(hydra_attn.remove(model)), merged)
    assert torch.equal(answer(tome.remove(model)), plain)


def test_copies_pickles_and_gradients(model):
    plain = model.state_dict().keys()
    hydra_attn.apply(model)
    expected = answer(model)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(answer(other), expected)
        assert torch.equal(answer(hydra_attn.remove(other)), answer(small()))
    assert model.state_dict().keys() == plain
    model.train()(X).square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in model.parameters())


@torch.no_grad()
def test_compiled_in_one_graph_and_exported():
    model = hydra_attn.apply(small(depth=2), 1)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(X), model(X))
    module = torch.export.export(model, (X,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)).module()
    more = torch.rand(5, 3, 32, 32)
    torch.testing.assert_close(module(more), model(more))


def test_a_bias_of_tokens_is_a_factor_and_any_other_is_refused():
    q, k, v = torch.randn(3, 2, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    attention = Attention("cosine")
    bias = torch.randn(2, 1, 1, 5)
    torch.testing.assert_close(attention(q, k, v, bias), by_hand(q, k, v, bias), rtol=1e-4, atol=1e-5)
    keep = torch.tensor([1, 1, 1, 0, 0]).bool().expand(1, 1, 1, 5)
    masked = attention(q, k, v, keep)
    torch.testing.assert_close(masked[:, :, :3], attention(*(x[:, :, :3] for x in (q, k, v))))
    torch.testing.assert_close(attention(q, k, v, keep.float().log()), masked)
    size = torch.tensor([1.0, 2, 1, 1, 3]).expand(2, 5)[..., None]
    torch.testing.assert_close(attention(q, k, v, size=size), attention(q, k, v, size[:, None, None, :, 0].log()))
    twice = attention(q, k, v, keep, size=size)
    torch.testing.assert_close(twice[:, :, :3], attention(*(x[:, :, :3] for x in (q, k, v)), size=size[:, :3]))
    with pytest.raises(NotSupported, match=r"^a mask or bias of \[2, 1, 5, 5\]: Hydra gives each query the same sum"):
        attention(q, k, v, torch.zeros(2, 1, 5, 5))
    with pytest.raises(NotSupported, match=r"^attention dropout 0\.1: Hydra has no attention map"):
        attention(q, k, v, dropout=0.1)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"layers": 5}, InputError, "layers is 5; a number from 1 to 4, the number of blocks"),
        ({"layers": 0}, InputError, "layers is 0"),
        ({"layers": [4]}, InputError, "layers has 4; indices from 0 to 3"),
        ({"layers": [1, 1.0]}, InputError, "layers has 1.0"),
        ({"layers": [3, -1]}, InputError, r"layers is \[3, -1\]; a block is listed twice"),
        ({"layers": []}, InputError, r"layers is \[\]; a number of blocks, a list of indices or 'all'"),
        ({"layers": "last"}, InputError, "layers is 'last'"),
        ({"layers": True}, InputError, "layers is True"),
        ({"order": "back"}, InputError, "order is 'back'; it is 'backward', 'forward', 'interleaved'"),
        ({"kernel": "softmax"}, UnknownName, "no kernel 'softmax'"),
        ({"rotate": 1}, InputError, "rotate is 1; it is True or False"),
    ],
)
def test_bad_options_are_one_line_and_change_nothing(model, options, error, said):
    plain = answer(model)
    with pytest.raises(error, match=f"^{said}"):
        plm_core.apply(model, "hydra", **options)
    assert torch.equal(answer(model), plain)
    assert not altered_blocks(model)


def test_models_that_cannot_have_it(model):
    with pytest.raises(NotSupported, match="ResNet"):
        hydra_attn.apply(timm.create_model("test_resnet"))
    with pytest.raises(InputError, match=r"^Hydra is not applied to this model"):
        hydra_attn.remove(model)
    hydra_attn.apply(model)
    with pytest.raises(InputError, match=r"^Hydra is applied to this model already"):
        hydra_attn.apply(model)
    with pytest.raises(InputError, match="is applied to this VisionTransformer already"):
        plm_core.apply(model, "hydra")
