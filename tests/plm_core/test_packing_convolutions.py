"""The transform ``packed`` on convolutions: the same answers in another order in memory, and back bit for bit."""

import copy
from functools import partial

import pytest
import timm
import torch
from torch import nn

import plm_core
from plm_core import packing
from plm_core.errors import NotSupported
from plm_core.packing import convolutions, operators, tuning

pytestmark = pytest.mark.skipif(bool(operators.missing()), reason=operators.missing())
apply = partial(plm_core.apply, name="packed", tune=False)
X = torch.randn(2, 8, 13, 10, generator=torch.Generator().manual_seed(1))
GEOMETRIES = {
    "plain": {"out_channels": 5, "kernel_size": 3},
    "one pixel": {"out_channels": 16, "kernel_size": 1},
    "strided": {"out_channels": 16, "kernel_size": 3, "stride": (2, 1), "padding": (1, 0)},
    "dilated": {"out_channels": 16, "kernel_size": 3, "dilation": 2, "padding": 2, "bias": False},
    "grouped": {"out_channels": 12, "kernel_size": 3, "groups": 4},
    "depthwise": {"out_channels": 8, "kernel_size": 3, "groups": 8, "padding": 1},
    "patches": {"out_channels": 24, "kernel_size": 5, "stride": 5},
}


def convolution(**options):
    torch.manual_seed(0)
    return nn.Conv2d(8, **options).eval()


@torch.inference_mode()
def answer(model, x=X):
    return model(x)


def assert_near(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * b.abs().max().item())


@pytest.mark.parametrize("options", GEOMETRIES.values(), ids=GEOMETRIES)
@pytest.mark.parametrize("channels_last", [False, True])
def test_answers_are_the_same_and_come_back_bit_for_bit(options, channels_last):
    layer = convolution(**options)
    x = X.contiguous(memory_format=torch.channels_last) if channels_last else X
    other = torch.randn(3, 8, 30, 21, generator=torch.Generator().manual_seed(2))
    before, of_other, state = answer(layer, x), answer(layer, other), copy.deepcopy(layer.state_dict())
    apply(layer, example=x)
    assert packing.report(layer) == "1 of 1 convolutions are packed"
    assert dict.__getitem__(layer._parameters, "weight") is None
    y = answer(layer, x)
    assert_near(y, before)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert_near(answer(layer, other), of_other)
    assert_near(answer(layer, X[0]), answer(convolution(**options), X[0]))  # an input without batch
    assert answer(layer, X[:0]).shape == before[:0].shape
    for key, value in layer.state_dict().items():
        assert torch.equal(value, state[key])
    with torch.no_grad():
        layer.weight.mul_(2)
        expected = 2 * (before if layer.bias is None else before - layer.bias[:, None, None])
        assert_near(answer(layer, x), expected if layer.bias is None else expected + layer.bias[:, None, None])
        layer.weight.div_(2)
    assert torch.equal(answer(plm_core.remove(layer), x), before)
    assert type(layer) is nn.Conv2d


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (
            partial(convolution, out_channels=4, kernel_size=3, padding="same"),
            "with a padding that is no number of zeros",
        ),
        (
            partial(convolution, out_channels=4, kernel_size=3, padding=1, padding_mode="reflect"),
            "with a padding that is no number of zeros",
        ),
        (lambda: timm.layers.StdConv2d(8, 4, 3).eval(), "of the class timm.layers.std_conv.StdConv2d"),
    ],
)
def test_others_are_left_alone(layer, reason):
    torch.manual_seed(0)
    model = nn.Sequential(layer(), nn.Conv2d(4, 3, 1)).eval()
    before = answer(model)
    apply(model, example=X)
    assert packing.report(model) == f"1 of 2 convolutions are packed; left as they are: 1 {reason}"
    assert_near(answer(model), before)


@pytest.mark.parametrize(
    ("options", "words"), [({"dtype": "bf16"}, " in bfloat16"), ({"convolutions": False}, "")], ids=str
)
def test_convolutions_that_are_left_out(options, words):
    model = nn.Sequential(nn.Conv2d(8, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    apply(model, example=X, **options)
    assert packing.report(model) == f"1 of 1 linear layers are packed{words}"
    assert type(model[0]) is nn.Conv2d


def test_an_input_of_other_channels_gets_the_error_of_torch():
    layer = apply(convolution(**GEOMETRIES["one pixel"]), example=X)
    with pytest.raises(RuntimeError, match=r"expected input.* to have 8 channels, but got 3 channels"):
        answer(layer, torch.rand(1, 3, 5, 5))


def test_a_padding_that_changes_later_counts():
    layer = apply(convolution(**GEOMETRIES["depthwise"]), example=X)
    layer.padding = "same"
    expected = convolution(**GEOMETRIES["depthwise"] | {"padding": "same"})
    assert torch.equal(answer(layer), answer(expected))


def test_a_model_that_views_an_output_is_refused_with_the_way_out():
    class Views(nn.Sequential):
        def forward(self, x):
            return super().forward(x).view(len(x), -1)

    model = Views(convolution(**GEOMETRIES["plain"])).eval()
    with pytest.raises(NotSupported, match=r"reads the output of a convolution with view.*: pass convolutions=False"):
        apply(model, example=X)
    assert packing.report(model) == "no layer is packed"


def test_few_shapes_are_measured_and_what_is_not_faster_stays_plain(monkeypatch):
    measured = []

    def measure(packed, plain, x):
        measured.append(list(x.shape))
        assert_near(packed(x), plain(x))
        return 1.0 if x.shape[2] < 32 else 1.01

    monkeypatch.setattr(tuning, "_share", measure)
    monkeypatch.setattr(tuning, "_faster", {})
    layer = convolution(**GEOMETRIES["patches"])
    plain = copy.deepcopy(layer)
    plm_core.apply(layer, "packed")
    assert packing.report(layer).endswith("left as they are: 1 not called yet")
    for batch_size, side in [(2, 13), (1, 13), (3, 40), *((1, side) for side in range(5, 30))]:
        x = torch.rand(batch_size, 8, side, 10)
        assert_near(answer(layer, x), answer(plain, x))
    assert measured == [[2, 8, 13, 10], [1, 8, 13, 10], [4, 8, 40, 10]] + [
        [1, 8, side, 10] for side in (*range(5, 13), *range(14, 19))
    ]
    assert len(measured) == convolutions.MOST_SIZES
    assert packing.report(layer) == "1 of 1 convolutions are packed"
    assert dict.__getitem__(layer._parameters, "weight") is not None  # large inputs need it


def test_the_packed_way_is_timed_with_channels_last(monkeypatch):
    orders = []
    monkeypatch.setattr(tuning, "_time", lambda way, x: orders.append(x.stride()) or 1.0)
    x = torch.rand(1, 8, 4, 4)
    assert tuning._share(torch.abs, torch.neg, x) == 1
    assert orders == [x.contiguous(memory_format=torch.channels_last).stride(), x.stride()] * tuning.ROUNDS


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=10).eval()


def test_a_whole_network(resnet):
    x = torch.rand(2, 3, 64, 64)
    before = answer(resnet, x)
    model = apply(copy.deepcopy(resnet), example=x)
    count = sum(isinstance(module, nn.Conv2d) for module in model.modules())
    assert packing.report(model) == f"1 of 1 linear layers and {count} of {count} convolutions are packed"
    assert_near(answer(model, x), before)
    assert_near(answer(copy.deepcopy(model), x), before)


def test_compiled_in_one_graph_and_exported(resnet):
    x = torch.rand(2, 3, 64, 64)
    model = apply(copy.deepcopy(resnet), example=x)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert_near(answer(compiled, x), answer(resnet, x))
    with torch.no_grad():
        exported = torch.export.export(model, (x,))
        assert "packed_conv2d" in str(exported.graph)
        assert_near(exported.module()(x), answer(resnet, x))
