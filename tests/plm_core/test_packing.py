"""The transform ``packed``: the same answers, the same weights for everybody who asks, and back bit for bit."""

import copy
import io
import pickle
import threading
from functools import partial

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.nn.utils import parametrizations
from torchvision.models.vision_transformer import MLPBlock

import plm_core
from plm_core import packing, weights
from plm_core.blocks.examples import make, tensor_of
from plm_core.errors import InputError, NotSupported
from plm_core.hookspecs import BlockAdapter
from plm_core.packing import operators, tuning
from plm_core.packing.layers import PackedLinear
from plm_core.packing.parameters import Parameters
from plm_core.registry import registry

pytestmark = pytest.mark.skipif(bool(operators.missing()), reason=operators.missing())
apply = partial(plm_core.apply, name="packed", tune=False)


def mlp(act=nn.GELU):
    """Return a small model: an MLP of timm, whose activation can be computed by its first layer, and a classifier."""
    torch.manual_seed(0)
    mlp = timm.layers.Mlp(24, 40, act_layer=act)
    for parameter in mlp.parameters():
        nn.init.normal_(parameter)
    return nn.Sequential(mlp, nn.Linear(24, 7)).eval()


@pytest.fixture
def model():
    return mlp()


X = torch.randn(3, 5, 24, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def answer(model, x=X):
    return model(x)


def assert_near(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * b.abs().max().item())


def plain_weights(model):
    """Return how many plain weights are in memory now."""
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return sum(dict.__getitem__(layer._parameters, "weight") is not None for layer in layers)


@pytest.mark.parametrize("act", [nn.GELU, partial(nn.GELU, approximate="tanh"), nn.ReLU, nn.SiLU, nn.Tanh])
def test_answers_are_the_same_and_come_back_bit_for_bit(act):
    model = mlp(act)
    before, state = answer(model), {key: value.clone() for key, value in model.state_dict().items()}
    apply(model)
    assert_near(answer(model), before)
    assert packing.report(model).startswith("3 of 3 linear layers are packed")
    assert (", 1 of them with the activation after it" in packing.report(model)) == (act is not nn.Tanh)
    assert_same_state(model, state)
    plm_core.remove(model)
    assert torch.equal(answer(model), before)
    assert {type(module) for module in model.modules()} == {type(module) for module in mlp(act).modules()}
    assert_same_state(model, state)
    assert type(model[1]._parameters) is dict


def assert_same_state(model, state):
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(torch.equal(value, state[key]) for key, value in model.named_parameters())


@pytest.mark.parametrize("keep", [False, True])
def test_a_plain_weight_is_in_memory_while_it_is_used(keep, model):
    apply(model, keep=keep)
    assert plain_weights(model) == 3
    answer(model)
    assert plain_weights(model) == (3 if keep else 0)
    model.state_dict()
    assert plain_weights(model) == 3
    answer(model)
    assert plain_weights(model) == (3 if keep else 0)
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in mlp().parameters())
    assert all(p.requires_grad for p in model.parameters())


@torch.no_grad()
def change_in_place(model, weight):
    weight.mul_(2)


def change_data(model, weight):
    weight.data += 1


def load(model, weight):
    state = {key: value * 2 for key, value in model.state_dict().items()}
    model.load_state_dict(state)


def load_and_assign(model, weight):
    model.load_state_dict({key: value * 2 for key, value in model.state_dict().items()}, assign=True)


def load_by_plm(model, weight):
    weights.load(model, {key: value * 2 for key, value in model.state_dict().items()})


def exchange(model, weight):
    model[1].weight = nn.Parameter(torch.ones(7, 24))


def cast(model, weight):
    model.double().float()
    model[1].bias.data += 1


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize(
    "change",
    [change_in_place, change_data, load, load_and_assign, load_by_plm, exchange, cast],
    ids=lambda f: f.__name__,
)
def test_changed_weights_are_noticed(change, keep, model):
    if change is change_data and keep:
        pytest.skip("torch does not count changes of data")
    plain = mlp()
    apply(model, keep=keep)
    before = answer(model)
    change(model, model[1].weight)
    change(plain, plain[1].weight)
    assert_near(answer(model), answer(plain))
    assert not torch.allclose(before, answer(model))
    assert_same_state(model, plain.state_dict())
    assert packing.report(model).startswith("3 of 3 linear layers are packed")


@torch.no_grad()
def test_a_weight_that_somebody_keeps_is_still_the_weight(model):
    original = model[1].weight  # held since before the transform
    apply(model)
    answer(model)
    again = model[0].fc1.weight  # asked for afterwards
    answer(model)
    assert model[1].weight is original
    assert model[0].fc1.weight is again
    answer(model)
    plain = mlp()
    for weight in (original, again, plain[1].weight, plain[0].fc1.weight):
        weight.mul_(1.5)
    assert_near(answer(model), answer(plain))


@pytest.mark.parametrize("called", [False, True])
@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
def test_copies_are_packed_and_have_weights_of_their_own(how, called, model):
    before = answer(model)
    apply(model)
    if called:
        answer(model)
    if how == "deepcopy":
        other = copy.deepcopy(model)
    elif how == "pickle":
        other = pickle.loads(pickle.dumps(model))
    else:
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        other = torch.load(file, weights_only=False)
    assert_near(answer(other), before)
    assert packing.report(other) == packing.report(apply(mlp(), example=X))
    with torch.no_grad():
        other[1].weight.zero_()
        other[1].bias.zero_()
    assert answer(other).abs().max() == 0
    assert_near(answer(model), before)
    assert_near(answer(plm_core.remove(other)), answer(other))


@pytest.mark.parametrize(
    "x",
    [
        torch.rand(24),
        torch.rand(0, 24),
        torch.rand(2, 0, 24),
        torch.rand(2, 3, 4, 24),
        torch.rand(24, 9).t(),
        torch.rand(2, 6, 24)[:, ::2],
        torch.rand(1, 24).expand(6, 24),
        torch.rand(2000, 24),
    ],
    ids=lambda x: str(list(x.shape)),
)
def test_inputs_of_any_shape_and_stride(x, model):
    before = answer(model, x)
    apply(model, example=X)
    out = answer(model, x)
    assert out.shape == before.shape
    torch.testing.assert_close(out, before, rtol=1e-5, atol=1e-4)


def test_layers_without_bias():
    model = nn.Sequential(nn.Linear(6, 5, bias=False)).eval()
    before = answer(model, X[..., :6])
    assert_near(answer(apply(model), X[..., :6]), before)


def left_alone():
    """Yield models in which one layer cannot be packed, and the reason."""
    yield parametrizations.weight_norm, "parametrized"
    yield lambda layer: layer.register_forward_hook(lambda *_: None), "with hooks or a forward of their own"
    yield lambda layer: setattr(layer, "forward", lambda x: x[..., :7]), "with hooks or a forward of their own"
    yield (
        lambda layer: setattr(layer, "__class__", type("MyLinear", (nn.Linear,), {"forward": F.linear})),
        f"of the class {__name__}.MyLinear",
    )
    yield lambda layer: layer.to(torch.bfloat16), "of another dtype, device or layout"


@pytest.mark.parametrize(("change", "reason"), list(left_alone()))
def test_layers_that_cannot_be_packed_are_counted(change, reason, model):
    change(model[1])
    model.eval()
    kind = type(model[1])
    apply(model)
    assert type(model[1]) is kind
    assert isinstance(model[0].fc1, PackedLinear)
    assert f"left as they are: 1 {reason}" in packing.report(model)


def test_tied_weights_and_layers_that_are_never_called_are_left():
    layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.MultiheadAttention(4, 2)])
    layers[1].weight = layers[0].weight
    apply(layers.eval())
    assert [isinstance(layer, PackedLinear) for layer in layers[:3]] == [False, False, True]
    assert "2 with a weight that another layer shares" in packing.report(layers)
    assert "1 never called by the module that holds them" in packing.report(layers)


@pytest.mark.parametrize(
    "mlp",
    [lambda: torchvision.ops.MLP(24, [40, 24]), lambda: MLPBlock(24, 40, 0.0)],
    ids=["torchvision's MLP", "that of its ViT"],
)
def test_the_activation_in_an_mlp_without_a_forward_of_its_own_is_absorbed(mlp):
    model = mlp().eval()
    before = answer(model)
    apply(model, example=X)
    assert packing.report(model) == "2 of 2 linear layers are packed, 1 of them with the activation after it"
    assert_near(answer(model), before)
    assert torch.equal(answer(plm_core.remove(model)), before)


def test_a_norm_between_a_layer_and_its_activation_is_kept():
    model = torchvision.ops.MLP(24, [40, 24], norm_layer=nn.LayerNorm).eval()
    before = answer(model)
    apply(model, example=X)
    assert "with the activation" not in packing.report(model)
    assert_near(answer(model), before)


def test_a_shared_activation_is_not_absorbed(model):
    model.add_module("again", nn.Sequential(nn.Linear(7, 24), model[0].act))
    before = answer(model.eval())
    assert_near(answer(apply(model)), before)
    assert "activation" not in packing.report(model)


def test_a_layer_that_is_also_used_elsewhere_computes_no_activation(model):
    model.add_module("again", nn.Sequential(nn.Linear(7, 24), model[0].fc1))
    before = answer(model.eval())
    assert_near(answer(apply(model)), before)
    assert "activation" not in packing.report(model)


def test_a_model_is_packed_once_by_either_way(model):
    before = answer(model)
    packing.apply(model, tune=False)
    for again in (packing.apply, apply):
        with pytest.raises(InputError, match=r"(is applied to this Sequential|are packed) already; remove"):
            again(model)
    assert_near(answer(model), before)
    assert torch.equal(answer(packing.remove(model)), before)
    assert torch.equal(answer(plm_core.remove(apply(model))), before)


def test_an_example_that_does_not_fit_leaves_the_model_as_it_was(model):
    before = answer(model)
    with pytest.raises(RuntimeError):
        apply(model, example=torch.rand(3, 5))
    assert packing.report(model) == "no layer is packed"
    assert torch.equal(answer(model), before)
    apply(model)


def test_tuning_leaves_the_random_numbers_of_the_user(model, monkeypatch):
    monkeypatch.setattr(tuning, "_faster", {})
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    plm_core.apply(model, "packed", example=X)
    assert tuning._faster
    assert torch.equal(torch.rand(2), expected)


def test_an_activation_with_hooks_is_not_absorbed(model):
    seen = []
    model[0].act.register_forward_hook(lambda module, args, out: seen.append(out))
    answer(apply(model))
    assert seen[0].min() > -0.2  # what GELU returns, and not what comes in


def test_gradients_are_refused(model):
    apply(model)
    for call in (lambda: model(X.clone().requires_grad_()), lambda: model.train()(X)):
        with pytest.raises(NotSupported, match=r"^a packed model computes no gradients: "):
            call()
    with (
        torch.autocast("cpu"),
        pytest.raises(NotSupported, match="packed in float32 cannot be called inside autocast w"),
    ):
        model.eval()(X)
    with pytest.raises(NotSupported, match=r"^Sequential is in training mode"):
        apply(mlp().train())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes_are_refused_and_work_after_a_cast(dtype, model):
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(NotSupported, match=f"^Sequential is {name} on cpu; layers can be packed in float32 on the CPU"):
        apply(mlp().to(dtype))
    apply(model)
    answer(model)
    assert torch.equal(answer(model.to(dtype), X.to(dtype)), answer(mlp().to(dtype), X.to(dtype)))


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"dtype": "fp16"}, "dtype is 'fp16'; it is 'fp32' or 'bf16'"),
        ({"dtype": torch.bfloat16}, "dtype is torch.bfloat16; it is"),
        ({"tune": 1}, "tune is 1; it is True or False"),
        ({"convolutions": "no"}, "convolutions is 'no'; it is True or False"),
        ({"keep": None}, "keep is None"),
        ({"example": 3}, "example is a"),
    ],
)
def test_bad_options_are_one_line_and_change_nothing(options, fault, model):
    with pytest.raises(InputError, match=f"^{fault}"):
        plm_core.apply(model, "packed", **options)
    assert packing.report(model) == "no layer is packed"
    with pytest.raises(NotSupported, match=r"^ReLU has no linear layer or convolution that can be packed"):
        apply(nn.ReLU().eval())
    with pytest.raises(InputError, match="'packed' cannot be removed: none is applied"):
        plm_core.remove(model, "packed")


def test_a_torch_without_the_operators_is_refused(model, monkeypatch):
    monkeypatch.setattr(operators, "missing", {torch.bfloat16: "this torch was built without oneDNN"}.get)
    with pytest.raises(NotSupported, match="no layer can be packed in bfloat16: this torch was built without oneDNN"):
        apply(model, dtype="bf16")


def test_operators_that_answer_wrongly_are_noticed(monkeypatch):
    monkeypatch.setattr(operators, "multiply", lambda x, packed, bias, activation: F.linear(x, packed.to_dense(), bias))
    assert operators.missing.__wrapped__() == "the operator answers wrongly (activation: relu)"
    monkeypatch.setattr(operators, "unpack", lambda packed: packed.to_dense() + 1)
    assert operators.missing.__wrapped__() == "a weight that is packed and unpacked differs"


def test_each_shape_is_measured_once_and_what_is_not_faster_stays_plain(model, monkeypatch):
    measured = []

    def measure(packed, plain, x):
        measured.append(list(x.shape))
        assert_near(packed(x), plain(x))
        return 0.9 if x.shape[0] < 100 and x.shape[1] != 40 else 0.91

    monkeypatch.setattr(tuning, "_share", measure)
    monkeypatch.setattr(tuning, "_faster", {})
    plain = mlp()
    plm_core.apply(model, "packed")
    assert "3 not called yet" in packing.report(model)
    for rows in (15, 16, 9, 1000, 5000):
        x = torch.rand(rows, 24)
        assert_near(answer(model, x), answer(plain, x))
    widths = [24, 40, 24]
    assert measured == [[16, width] for width in widths] + [[1024, width] for width in widths]
    assert packing.report(model) == (
        "2 of 3 linear layers are packed, 1 of them with the activation after it; left as they are: "
        "1 faster as they are"
    )
    assert plain_weights(model) == 3  # some shapes need them


def test_one_way_is_taken_by_most_of_the_pairs(monkeypatch):
    times = iter([1, 9] * 4 + [9, 1] * 3)
    monkeypatch.setattr(tuning, "_time", lambda way, x: next(times))
    assert tuning._share(abs, abs, X) == pytest.approx(1 / 9)
    times = iter([1, 9] * 3 + [9, 9] * 4)
    assert tuning._share(abs, abs, X) == 1


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_in_one_graph(backend, model):
    apply(model, example=X)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    with torch.no_grad():
        torch.testing.assert_close(compiled(X), model(X))
    assert plain_weights(model) == 0


def test_exported_with_a_dynamic_batch(model):
    apply(model, example=X)
    with torch.no_grad():
        program = torch.export.export(model, (X,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
        torch.testing.assert_close(program.module()(X[:1]), model(X[:1]))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dynamo", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["tracing", "torch.export"])
def test_onnx_is_that_of_the_plain_model(dynamo, model, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    before = answer(model)
    apply(model, example=X)
    torch.onnx.export(model, (X,), tmp_path / "model.onnx", dynamo=dynamo, input_names=["x"])
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    assert_near(torch.from_numpy(session.run(None, {"x": X.numpy()})[0]), before)


def test_threads(model):
    before, wrong = answer(model), []
    apply(model)

    def work():
        for _ in range(20):
            if not torch.allclose(answer(model), before, atol=1e-4):
                wrong.append(1)
            model.state_dict()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("first", ["packed", "tome"])
def test_together_with_token_merging(first):
    pytest.importorskip("tome")
    torch.manual_seed(0)
    model = timm.create_model("test_vit", img_size=64, num_classes=5).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    x = torch.rand(2, 3, 64, 64)
    before = answer(model, x)
    merged = answer(plm_core.apply(model, "tome", r=3), x)
    plm_core.remove(model)
    for name in sorted(["packed", "tome"], key=lambda name: name != first):
        plm_core.apply(model, name, **({"r": 3} if name == "tome" else {"tune": False}))
    assert_near(answer(model, x), merged)
    assert "packed" in packing.report(model)
    assert not torch.allclose(merged, before, rtol=1e-3)
    assert torch.equal(answer(plm_core.remove(model), x), before)


# One model of each family of timm. Those of timm's own tests are in each run.
FAMILIES = [
    "beit_base_patch16_224",
    "caformer_s18",
    "cait_xxs24_224",
    "coat_tiny",
    "convit_tiny",
    "convnextv2_atto",
    "csatv2",
    "davit_tiny",
    "densenet121",
    "edgenext_xx_small",
    "efficientformer_l1",
    "efficientformerv2_s0",
    "efficientvit_b0",
    "eva02_tiny_patch14_224",
    "fastvit_t8",
    "focalnet_tiny_srf",
    "gcvit_xxtiny",
    "gmlp_ti16_224",
    "hiera_tiny_224",
    "inception_next_atto",
    "levit_128s",
    "mixer_s32_224",
    "mobilenetv3_small_050",
    "mobilevit_xxs",
    "mvitv2_tiny",
    "nest_tiny",
    "nextvit_small",
    "pit_ti_224",
    "poolformer_s12",
    "pvt_v2_b0",
    "rdnet_tiny",
    "repvit_m0_9",
    "resmlp_12_224",
    "sequencer2d_s",
    "shvit_s1",
    "swiftformer_xs",
    "swin_tiny_patch4_window7_224",
    "swinv2_tiny_window8_256",
    "tiny_vit_5m_224",
    "tnt_s_legacy_patch16_224",
    "twins_svt_small",
    "vit_pe_core_tiny_patch16_384",
    "vit_small_patch16_dinov3",
    "vitamin_small_224",
    "volo_d1_224",
    "xcit_nano_12_p16_224",
]


@pytest.mark.parametrize(
    "name", [*timm.list_models("test_*"), *(pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES)]
)
@torch.inference_mode()
def test_every_family_of_timm(name):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:  # scales of layers and of norms: nothing may be hidden by a zero
            parameter.add_(torch.randn_like(parameter) * 0.1)
    x = torch.rand(1, *timm.data.resolve_model_data_config(model)["input_size"])
    before, state = model(x), {key: value.clone() for key, value in model.state_dict().items()}
    apply(model)
    torch.testing.assert_close(model(x), before, rtol=0, atol=1e-5 * before.abs().max().item())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    after = plm_core.remove(model)(x)
    assert torch.allclose(after, before, rtol=1e-5)
    assert torch.equal(after, before) or name.startswith("twins")  # a copy of it differs by where its weights lie, too


OTHERS = [a for a in registry().declared(BlockAdapter) if not a.name.startswith(("timm", "open_clip"))]


@pytest.mark.parametrize("adapter", OTHERS, ids=lambda adapter: adapter.name)
@torch.inference_mode()
def test_every_family_of_other_libraries(adapter):
    torch.manual_seed(0)
    model, x = make(adapter)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    before = tensor_of(model(x))
    apply(model)
    assert_near(tensor_of(model(x)), before)
    assert not packing.report(model).startswith("0 of")
    assert torch.equal(tensor_of(plm_core.remove(model)(x)), before)


def test_the_parameters_of_a_layer_are_a_dict():
    weight = nn.Parameter(torch.rand(3, 2))
    own = Parameters(weight=weight, bias=None)
    own.packed = operators.pack(weight, 1)
    own.drop()
    assert list(own) == ["weight", "bias"]
    assert len(own) == 2
    for read in (lambda: own["weight"], lambda: own.get("weight"), lambda: own.copy()["weight"], own.values, own.items):
        read()
        assert torch.equal(dict.__getitem__(own, "weight"), weight)
        own.drop()
    assert torch.equal(own.pop("weight"), weight)
    assert own.get("none", 3) == 3
