"""The transform ``packed`` in bfloat16: alone, inside autocast, and with weights that stay float32 for everybody."""

import copy
from functools import partial

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

import plm_core
from plm_core import packing
from plm_core.errors import NotSupported
from plm_core.packing import operators, tuning

pytestmark = pytest.mark.skipif(bool(operators.missing(torch.bfloat16)), reason=operators.missing(torch.bfloat16))
apply = partial(plm_core.apply, name="packed", dtype="bf16", tune=False)
X = torch.randn(3, 5, 24, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(timm.layers.Mlp(24, 40), nn.Linear(24, 7)).eval()


@torch.inference_mode()
def answer(model, x=X, autocast=True):
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        return model(x)


def rounded(layer, x):
    """Compute a layer with its weights and its input rounded to bfloat16, in float32."""
    return F.linear(*(tensor.bfloat16().float() for tensor in (x, layer.weight, layer.bias)))


def cosine(a, b):
    return F.cosine_similarity(a.flatten().double(), b.flatten().double(), dim=0).item()


def test_a_layer_multiplies_what_is_rounded_and_returns_the_dtype_of_its_input():
    layer = nn.Linear(24, 7).eval()
    expected = rounded(layer, X)
    apply(layer)
    for x, autocast, dtype in (
        (X, False, torch.float32),
        (X, True, torch.bfloat16),
        (X.bfloat16(), False, torch.bfloat16),
        (X.bfloat16(), True, torch.bfloat16),
    ):
        y = answer(layer, x, autocast)
        assert y.dtype is dtype
        torch.testing.assert_close(y.float(), expected, atol=0, rtol=2**-7)
        assert not torch.allclose(y.float(), F.linear(X, layer.weight, layer.bias), atol=0, rtol=1e-5)


def test_the_activation_is_computed_too_and_weights_stay_what_they_were(model):
    plain, state = copy.deepcopy(model), copy.deepcopy(model.state_dict())
    apply(model, example=X)
    assert packing.report(model) == (
        "3 of 3 linear layers are packed in bfloat16, 1 of them with the activation after it"
    )
    mlp = plain[0]
    expected = rounded(plain[1], rounded(mlp.fc2, F.gelu(rounded(mlp.fc1, X))))
    torch.testing.assert_close(answer(model).float(), expected, atol=0.02, rtol=0)
    for key, value in model.state_dict().items():
        assert value.dtype is torch.float32
        assert torch.equal(value, state[key])
    with torch.no_grad():
        model[1].weight.zero_()
    assert torch.equal(answer(model).float(), model[1].bias.bfloat16().float().expand(3, 5, 7))
    assert torch.equal(answer(copy.deepcopy(model)), answer(model))
    model.load_state_dict(state)
    assert torch.equal(answer(plm_core.remove(model), autocast=False), answer(plain, autocast=False))


def test_a_layer_that_is_faster_in_float32_stays_so_inside_autocast(model, monkeypatch):
    monkeypatch.setattr(tuning, "_faster", {})
    monkeypatch.setattr(tuning, "_share", lambda packed, plain, x: 1.0)
    expected = answer(model, autocast=False)
    plm_core.apply(model, "packed", dtype="bf16")
    for x in (X, X.bfloat16()):
        y = answer(model, x)
        assert y.dtype is torch.float32
        torch.testing.assert_close(y, expected, atol=1e-6 if x is X else 0.02, rtol=0)
    assert "3 faster as they are" in packing.report(model)


def test_layers_are_timed_in_the_dtypes_in_which_they_would_compute(model, monkeypatch):
    dtypes = []

    def measure(packed, plain, x):
        dtypes.append((packed(x).dtype, plain(x).dtype))
        return 0.5

    monkeypatch.setattr(tuning, "_share", measure)
    monkeypatch.setattr(tuning, "_faster", {})
    plm_core.apply(model, "packed", dtype="bf16")
    answer(model)
    assert dtypes == [(torch.bfloat16, torch.float32)] * 3


def test_another_autocast_is_refused(model):
    apply(model)
    with (
        torch.autocast("cpu", torch.float16),
        torch.no_grad(),
        pytest.raises(NotSupported, match="packed in bfloat16 cannot be called inside autocast with float16: "),
    ):
        model(X)


def test_compiled_in_one_graph(model):
    apply(model, example=X)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert torch.equal(answer(compiled), answer(model))


@pytest.mark.parametrize("name", timm.list_models("test_*"))
def test_every_family_of_timm(name):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=50).eval()
    x = torch.rand(1, *timm.data.resolve_model_data_config(model)["input_size"])
    before = answer(model, x, autocast=False)
    by_autocast = cosine(answer(model, x), before)
    apply(model)
    for autocast in (True, False):
        assert 1 - cosine(answer(model, x, autocast), before) < max(2 * (1 - by_autocast), 1e-3)
    assert torch.equal(answer(plm_core.remove(model), x, autocast=False), before)


@pytest.mark.parametrize("first", ["packed", "tome"])
def test_together_with_token_merging(first):
    pytest.importorskip("tome")
    model = plm_core.create_model("tome_micro_shapes", pretrained=True).eval()
    x = torch.rand(2, 3, 48, 48)
    merged = answer(plm_core.apply(copy.deepcopy(model), "tome", r=8), x, autocast=False)
    for name in sorted(["packed", "tome"], key=lambda name: name != first):
        plm_core.apply(model, name, **({"r": 8} if name == "tome" else {"dtype": "bf16", "tune": False}))
    assert cosine(answer(model, x), merged) > 0.99


@pytest.mark.parametrize("name", ["hiera_micro_digits", "tome_micro_shapes"])
def test_embeddings_of_trained_models_keep_their_direction(name):
    pytest.importorskip(name.partition("_")[0])
    model = plm_core.create_model(name, pretrained=True).eval()
    preprocess = plm_core.transform_for(model)
    images = torch.stack([preprocess(image) for image in plm_core.samples.digits("heldout")[0][:100]])
    with torch.inference_mode():
        embedding, logits = plm_core.embed(model, images), model(images)
        apply(model)
        with torch.autocast("cpu", torch.bfloat16):
            other, its_logits = plm_core.embed(model, images), model(images)
    assert F.cosine_similarity(embedding, other.float()).min() > 0.999
    assert (logits.argmax(1) == its_logits.argmax(1)).float().mean() >= 0.98
