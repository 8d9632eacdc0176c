"""The function: goldens, a naive form in float64, chunks, what does not count, gradients and exports."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import hydra_attn
from hydra_attn import KERNELS, chunks, gather, hydra, linear_attention, read, step
from plm_core.errors import InputError, UnknownName

GOLDENS = Path(__file__).parent / "goldens"
NAMES = {"mean": "uniform"}  # the golden of this name is an average of values, which the paper's "mean" is not


def golden(file):
    with safe_open(GOLDENS / f"{file}.safetensors", "pt") as opened:
        return {key: opened.get_tensor(key) for key in opened.offset_keys()}, json.loads(opened.metadata()["config"])


def naive(q, k, v, kernel, mask=None, causal=False, weights=None):
    """Compute each feature as a head of its own, by its T x T map of attention, in float64."""
    q, k, v = (x.double() for x in (q, k, v))
    count = torch.ones(k.shape[:2], dtype=torch.float64)
    for factor in (mask, weights):
        count = count if factor is None else count * factor.double()
    seen = torch.ones(q.shape[1], k.shape[1], dtype=torch.float64)
    seen = (seen.tril() if causal else seen) * count[:, None]  # [B, T, T], how often a query counts a token
    if kernel == "cosine":
        q, k = (x / x.norm(dim=-1, keepdim=True) for x in (q, k))
    q = {"tanh": q.tanh(), "tanh_softmax": q.tanh(), "sigmoid_softmax": q.sigmoid(), "uniform": q * 0 + 1}.get(
        kernel, q
    )
    k = {"tanh": k.tanh(), "uniform": k * 0 + 1}.get(kernel, k)
    features = []
    for d in range(q.shape[-1]):
        keys = k[:, None, :, d]
        if "softmax" in kernel:
            keys = keys + seen.log()
            keys = (keys - keys.amax(-1, keepdim=True)).exp()
            maps = q[:, :, None, d] * keys / keys.sum(-1, keepdim=True)
        else:
            maps = q[:, :, None, d] * keys * seen
            maps = maps / (seen.sum(-1, keepdim=True) if kernel in ("mean", "uniform") else 1)
        features.append(maps @ v[:, :, d, None])
    return torch.cat(features, -1)


def tokens(*shape, seed=0, scale=1.0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape, scale=scale)).float()


@pytest.mark.parametrize("name", golden("hydra_core")[1])
def test_goldens(name):
    tensors, config = golden("hydra_core")
    kernel = NAMES.get(config[name]["kernel"], config[name]["kernel"])
    q, k, v, mask = (tensors.get(f"inputs.{name}.{part}") for part in ("q", "k", "v", "mask"))
    assert (mask is not None) == config[name]["masked"]
    expected = tensors[f"outputs.{name}.out"]
    torch.testing.assert_close(hydra(q, k, v, kernel, mask), expected, rtol=1e-5, atol=1e-6)
    if mask is not None:
        torch.testing.assert_close(hydra(q, k, v, kernel, mask.bool()), expected, rtol=1e-5, atol=1e-6)
        assert not torch.allclose(hydra(q, k, v, kernel), expected, atol=1e-3)


def test_goldens_of_fewer_heads():
    tensors, config = golden("cosine_heads_sweep")
    q, k, v = (tensors[f"inputs.{part}"] for part in "qkv")
    for heads in config["heads"]:
        expected = tensors[f"outputs.cos_heads_{heads}"]
        torch.testing.assert_close(linear_attention(q, k, v, heads), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(hydra(q, k, v), tensors["outputs.hydra"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kernel", KERNELS)
@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(1, 3),
    number=st.integers(1, 9),
    features=st.integers(1, 6),
    causal=st.booleans(),
    masked=st.booleans(),
    weighted=st.booleans(),
    seed=st.integers(0, 99),
)
def test_it_is_the_naive_form(kernel, batch, number, features, causal, masked, weighted, seed):
    q, k, v = tokens(3, batch, number, features, seed=seed, scale=2.0)
    given_ = {"causal": causal}
    if masked:
        mask = tokens(batch, number, seed=seed) > 0
        mask[:, 0] = True  # naive divides by what a query sees
        given_["mask"] = mask
    if weighted:
        given_["weights"] = tokens(batch, number, seed=seed).abs() + 0.1
    expected = naive(q, k, v, kernel, **given_)
    torch.testing.assert_close(hydra(q, k, v, kernel, **given_).double(), expected, rtol=1e-4, atol=1e-5)
    in_double = hydra(q.double(), k.double(), v.double(), kernel, **given_)
    torch.testing.assert_close(in_double, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("kernel", KERNELS)
def test_cross_attention_reads_another_sequence(kernel):
    q, (k, v) = tokens(2, 4, 6), tokens(2, 2, 7, 6, seed=1)
    expected = naive(q, k, v, kernel)
    torch.testing.assert_close(hydra(q, k, v, kernel).double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sizes", [(3, 1, 5), (9,), (1,) * 9])
@pytest.mark.parametrize("kernel", KERNELS)
def test_chunks_give_what_the_whole_gives(kernel, sizes):
    q, k, v = tokens(3, 2, 9, 6)
    mask, weights = tokens(2, 9, seed=1) > -1, tokens(2, 9, seed=2).abs() + 0.5
    mask[:, 0] = True
    context, answers, kept = None, [], None
    for part in zip(*(x.split(sizes, dim=1) for x in (q, k, v, mask, weights)), strict=True):
        queries, keys, values, its_mask, its_weights = part
        answer, context = step(queries, keys, values, kernel, its_mask, its_weights, context)
        answers.append(answer)
        kept = gather(keys, values, kernel, its_mask, its_weights, kept)
    whole = partial(hydra, q, k, v, kernel, mask, weights=weights)
    torch.testing.assert_close(torch.cat(answers, 1), whole(causal=True), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(read(q, kept, kernel), whole(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(read(q, context, kernel), whole(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kernel", KERNELS)
def test_what_does_not_count_may_be_anything(kernel, causal):
    q, k, v = tokens(3, 2, 6, 4)
    keep = torch.tensor([[1, 0, 1, 1, 0, 1], [1, 1, 1, 0, 0, 0]]).bool()
    expected = hydra(q, k, v, kernel, keep, causal)
    for value in (float("nan"), float("inf")):
        spoiled = [x.masked_fill(~keep[..., None], value) for x in (k, v)]
        assert torch.equal(hydra(q, *spoiled, kernel, keep, causal), expected)
        assert torch.equal(hydra(q, *spoiled, kernel, causal=causal, weights=keep.float()), expected)
    short = hydra(q[1:, :3], k[1:, :3], v[1:, :3], kernel, causal=causal)
    torch.testing.assert_close(expected[1:, :3], short, rtol=1e-5, atol=1e-6)
    nothing = hydra(q, k, v, kernel, torch.zeros(2, 6), causal)
    assert torch.equal(nothing, torch.zeros_like(q))


def test_a_weight_is_a_number_of_tokens():
    q, k, v = tokens(3, 1, 4, 6)
    twice = [torch.cat([x, x[:, 1:2]], 1) for x in (k, v)]
    for kernel in KERNELS:
        weighted = hydra(q, k, v, kernel, weights=torch.tensor([[1, 2, 1, 1]]))
        torch.testing.assert_close(weighted, hydra(q, *twice, kernel), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_causal_softmax_neither_overflows_nor_vanishes(scale):
    q, v = tokens(2, 1, 50, 3)
    for k in (torch.linspace(-scale, scale, 50), torch.linspace(scale, -scale, 50)):
        k = k[None, :, None].expand(1, 50, 3)
        expected = naive(q, k, v, "tanh_softmax", causal=True)
        torch.testing.assert_close(hydra(q, k, v, "tanh_softmax", causal=True).double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(dtype):
    q, k, v = tokens(3, 1, 5000, 8)
    v = v + 1  # sums that half precision cannot hold
    q, k, v = (x.to(dtype) for x in (q, k, v))
    for kernel in ("cosine", "mean"):
        answer = hydra(q, k, v, kernel)
        assert answer.dtype is dtype
        exact = naive(q[:, :3], k, v, kernel)
        torch.testing.assert_close(answer[:, :3].double(), exact, rtol=2**-7, atol=2**-9)
        with torch.autocast("cpu", dtype):
            torch.testing.assert_close(
                hydra(q, k, v, kernel, weights=torch.ones(1, 5000)), answer, rtol=2**-7, atol=1e-3
            )


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kernel", KERNELS)
def test_gradients(kernel, causal):
    q, k, v = (x.double().requires_grad_() for x in tokens(3, 2, 4, 3))
    weights = (tokens(2, 4, seed=5).double().abs() + 0.3).requires_grad_()
    call = partial(hydra, kernel=kernel, causal=causal)
    assert torch.autograd.gradcheck(lambda q, k, v, weights: call(q, k, v, weights=weights), (q, k, v, weights))


def test_a_token_of_zeros_has_a_gradient():
    q, k, v = (torch.zeros(1, 2, 3, requires_grad=True) for _ in range(3))
    hydra(q, k, v).sum().backward()
    assert all(torch.isfinite(x.grad).all() for x in (q, k, v))


class Largest(TorchDispatchMode):
    """Record the numbers of elements of all tensors that are made."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.sizes = [*getattr(self, "sizes", []), *(x.numel() for x in tree_leaves(result) if torch.is_tensor(x))]
        return result


@pytest.mark.parametrize("kernel", KERNELS)
def test_chunks_of_long_sequences_give_the_same(kernel, monkeypatch):
    q, k, v = tokens(3, 2, 700, 3)
    counts = {"mask": tokens(2, 700, seed=2) > 0, "weights": tokens(2, 700, seed=5).abs()}
    whole = [hydra(q, k, v, kernel, **options) for options in ({}, counts)]
    monkeypatch.setattr(chunks, "ELEMENTS", 1)
    with Largest() as largest:
        parts = [hydra(q, k, v, kernel, **options) for options in ({}, counts)]
    for part, one in zip(parts, whole, strict=True):
        torch.testing.assert_close(part, one, atol=1e-5, rtol=1e-5)
    made = [size for size in largest.sizes if size > 256 * 2 * 3]
    assert made == [q.numel()] * 2  # the outputs, and no intermediate result
    leaf = k.clone().requires_grad_()  # where gradients are taken there is one chunk
    assert torch.equal(hydra(q, leaf, v, kernel, **counts), whole[1])


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kernel", KERNELS)
def test_no_tensor_is_larger_than_the_input(kernel, causal):
    x = torch.rand(1, 50_000, 3)
    with Largest() as largest:
        hydra(x, x, x, kernel, causal=causal, weights=torch.ones(1, 50_000))
    assert max(largest.sizes) == x.numel()
    assert sum(size == x.numel() for size in largest.sizes) <= (24 if "softmax" in kernel else 8)


class Model(torch.nn.Module):
    def __init__(self, kernel, causal):
        super().__init__()
        self.kernel, self.causal = kernel, causal

    def forward(self, q, k, v, mask):
        return hydra(q, k, v, self.kernel, mask, self.causal)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("kernel", "causal"), [("cosine", False), ("sigmoid_softmax", False), ("mean", True)])
@torch.no_grad()
def test_compiled_exported_and_in_onnx(kernel, causal, tmp_path):
    model = Model(kernel, causal)
    inputs = (*tokens(3, 2, 6, 4), torch.ones(2, 6).tril(3))
    expected = model(*inputs)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), expected)
    shapes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    exported = torch.export.export(model, inputs, dynamic_shapes=(shapes,) * 4).module()
    others = (*tokens(3, 3, 11, 4, seed=7), torch.ones(3, 11))
    torch.testing.assert_close(exported(*others), model(*others))
    onnxruntime = pytest.importorskip("onnxruntime")
    names = ["q", "k", "v", "mask"]
    axes = {name: {0: "batch", 1: "tokens"} for name in names}
    torch.onnx.export(model, inputs, tmp_path / "m.onnx", dynamo=False, input_names=names, dynamic_axes=axes)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    (answer,) = session.run(None, {name: x.numpy() for name, x in zip(names, others, strict=True)})
    torch.testing.assert_close(torch.from_numpy(answer), model(*others), rtol=1e-4, atol=1e-4)


X = torch.zeros(2, 5, 4)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((X, X, X[:, :0]), r"k is \[2, 5, 4\] and v is \[2, 0, 4\]; both are \[B, T, D\]$"),
        ((X, X[:, :0], X[:, :0]), "k has no tokens"),
        ((X[0], X, X), r"q is \[5, 4\] and k is \[2, 5, 4\]"),
        ((X[..., :2], X, X), "of the same B and D"),
        ((X.half(), X, X), "q is torch.float16 on cpu and k is torch.float32 on cpu; both are floats of one dtype"),
        ((X, X, X.to("meta")), "v is torch.float32 on meta and k is"),
        ((X.int(), X.int(), X.int()), "q is torch.int32 on cpu"),
        ((X, X, X, "cosine", torch.ones(5)), r"mask is \[5\]; it has a value for each token, \[2, 5\]"),
        ((X, X, X, "cosine", None, False, torch.ones(2, 5, 1)), r"weights is \[2, 5, 1\]"),
        ((X[:, :3], X, X, "cosine", None, True), "q has 3 tokens and k has 5; causal attention needs as many of each"),
    ],
)
def test_bad_input_is_one_line(arguments, said):
    with pytest.raises(InputError, match=f"^{said}" if not said.startswith("of") else said):
        hydra(*arguments)


def test_names_and_contexts_of_other_kernels():
    with pytest.raises(UnknownName, match=r"^no kernel 'cosin'; did you mean 'cosine'\?$"):
        hydra(X, X, X, "cosin")
    with pytest.raises(InputError, match=r"^before is a context of another kernel"):
        gather(X, X, "mean", before=gather(X, X))
    for heads in (3, 0, 2.0):
        with pytest.raises(InputError, match=rf"^num_heads is {heads}; a divisor of 4"):
            linear_attention(X, X, X, heads)


def test_nan_stays_in_its_image():
    q, k, v = tokens(3, 2, 4, 3)
    k[0, 0, 0] = float("nan")
    answer = hydra(q, k, v)
    assert answer[0].isnan().any()
    assert torch.equal(answer[1:], hydra(q[1:], k[1:], v[1:]))
    assert hydra_attn.hydra is hydra
