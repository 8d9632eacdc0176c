"""State dicts of which one tensor is hostile, in every layout: loaded as they are, or refused with nothing loaded."""

import random
import warnings

import pytest
import torch
from torch import nn

import hiera
import plm_core
from plm_core import weights
from plm_core.errors import PlmError

pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR", "ignore:The PyTorch API of nested")


class Spread(torch.Tensor):
    """A tensor of another class, as quantization and sharding libraries have them."""


def quantized(tensor):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch is about to drop the old quantization
        return torch.quantize_per_tensor(tensor.float(), 0.1, 0, torch.qint8)


def strided(tensor):
    return torch.stack([tensor, tensor], -1)[..., 0]


def filled(tensor, value, dtype=None):
    return torch.full_like(tensor, value, dtype=dtype or tensor.dtype)


HARMLESS = {
    "strided": strided,
    "grad": lambda t: t.clone().requires_grad_() if t.is_floating_point() else t,
    "parameter": lambda t: nn.Parameter(t, requires_grad=False),
    "expanded": lambda t: torch.ones((), dtype=t.dtype).expand(t.shape),
    "half": lambda t: t.half() if t.is_floating_point() else t.int(),
    "bfloat16": lambda t: t.bfloat16() if t.is_floating_point() else t.to(torch.uint8),
    "double": lambda t: t.double() if t.is_floating_point() else t.long(),
    "float8": lambda t: t.to(torch.float8_e5m2) if t.is_floating_point() else t,
    "nan": lambda t: filled(t, float("nan")) if t.is_floating_point() else t,
    "inf": lambda t: filled(t, float("-inf")) if t.is_floating_point() else t,
}
HOSTILE = {
    "meta": lambda t: t.to("meta"),
    "sparse": lambda t: t.to_sparse(),
    "csr": lambda t: t.to_sparse_csr() if t.ndim == 2 else t.to_sparse(),
    "quantized": quantized,
    "complex": lambda t: t.to(torch.complex64),
    "integer": lambda t: t.long() if t.is_floating_point() else t.float(),
    "bool": lambda t: t.bool(),
    "nested": lambda t: torch.nested.nested_tensor([t.float(), t.float()]),
    "jagged": lambda t: torch.nested.nested_tensor([t.float().reshape(-1, 1)] * 2, layout=torch.jagged),
    "subclass": lambda t: t.as_subclass(Spread),
    "without shape": lambda t: nn.UninitializedParameter(),
    "too large": lambda t: filled(t, 1e300, torch.float64) if t.is_floating_point() else t.to(torch.complex128),
    "transposed": lambda t: t.reshape(1, *t.shape),
    "longer": lambda t: torch.cat([t, t], -1) if t.ndim else t.reshape(1, 1),
    "empty": lambda t: t.new_empty(0),
    "scalar": lambda t: t.new_ones(()) if t.ndim else t.reshape(1),
    "flat": lambda t: t.reshape(-1) if t.ndim > 1 else t.reshape(1, 1, -1),
    "numpy": lambda t: t.numpy(),
    "list": lambda t: t.tolist(),
    "None": lambda t: None,
    "dict": lambda t: {"w": t},
}


def encoder():
    trunk = hiera.HieraDet(embed_dim=16, stages=(1, 1, 2, 1), global_att_blocks=(3,))
    return hiera.HieraDetFpn(trunk, hiera.FpnNeck(16, trunk.channels[::-1], levels=(2, 3)))


def autoencoder():
    trunk = {"input_size": (64, 64), "embed_dim": 16, "num_heads": 1, "stages": (1, 1, 1, 1)}
    return hiera.MaskedAutoencoderHiera(**trunk, decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2)


@pytest.fixture(scope="module")
def subjects():
    """Return models, their layouts, and the state dict in each."""
    torch.manual_seed(0)
    names = ("hiera_micro_digits", "hiera_micro_motions", "hiera_micro_abswin", "test_vit")
    found = []
    headless = plm_core.create_model(names[0], num_classes=0)
    for model in (*map(plm_core.create_model, names), headless, autoencoder(), encoder(), encoder().trunk):
        for layout in weights.layouts_for(model):
            try:
                found.append((model, layout, weights.export(model, layout)))
            except PlmError:  # the other code base has no place for this variant
                continue
    assert len({layout for _, layout, _ in found}) == 8
    return found


@pytest.mark.trials(short=60, long=10_000)
def test_one_hostile_tensor(trials, drill, subjects):
    rng = random.Random(trials)
    for number in range(trials):
        model, layout, state = rng.choice(subjects)
        key, kind = rng.choice(list(state)), rng.choice([*HARMLESS, *HOSTILE])
        hostile = (HARMLESS | HOSTILE)[kind](state[key])
        case, changed = f"{number}: {type(model).__name__}, {layout}, {key} {kind}", state | {key: hostile}
        before = {k: v.clone() for k, v in model.state_dict().items()}
        answer = drill.attempt(case, lambda m=model, s=changed, n=layout: weights.load(m, s, n))
        refused = isinstance(answer, PlmError)
        if kind in HOSTILE:
            drill.expect(case, refused, "loaded")
        elif len(state) == len(before):  # else it is a part of a tensor, whose other parts have another dtype
            drill.expect(case, not refused, f"refused: {answer}")
        now = model.state_dict()
        if refused:
            drill.expect(case, all(torch.equal(now[k], v) for k, v in before.items()), "half loaded")
        else:
            back = weights.export(model, layout)[key]
            drill.expect(case, same(back, hostile.detach().to(back.dtype)), "other values")
            model.load_state_dict(before)


def same(a, b):
    return torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num())


class Shared(nn.Linear):
    """A layer one buffer of which is a single number, seen five times: nothing can be written to it."""

    def __init__(self):
        super().__init__(2, 2)
        self.register_buffer("table", torch.ones(1).expand(5))


def inference_model():
    with torch.inference_mode():
        return nn.Sequential(nn.Linear(2, 2))


class Hooked(nn.Linear):
    """A layer that refuses to load, after its neighbours have loaded."""

    def _load_from_state_dict(self, *args):
        raise KeyError("no")


@pytest.mark.parametrize("make", [Shared, inference_model, lambda: Hooked(2, 2), lambda: nn.LazyLinear(2)])
def test_models_that_cannot_be_written_to(make, drill):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 2), make(), nn.Linear(2, 2))
    first = [model[0].weight.clone(), model[2].weight.clone()]
    state = {key: torch.zeros(2, 2) if "weight" in key else torch.zeros(2) for key in model.state_dict()}
    state |= {"1.table": torch.zeros(5)} if isinstance(model[1], Shared) else {}
    error = drill.attempt(type(model[1]).__name__, lambda: weights.load(model, state))
    drill.expect(type(model[1]).__name__, isinstance(error, PlmError), "loaded")
    drill.expect(
        "neighbours", torch.equal(model[0].weight, first[0]) and torch.equal(model[2].weight, first[1]), "half"
    )
