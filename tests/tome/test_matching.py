"""The matching functions: the original's outputs, and properties that hold for any tokens."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tome
from plm_core import InputError
from tome import matching
from tome.matching import MODES, Matching
from tome.matching import match as matching_of

EXACT = {"atol": 2e-6, "rtol": 0}
BIPARTITE = ("even_plain", "even_cls", "odd_plain", "odd_cls", "cls_distill", "cls_clip")


@pytest.mark.parametrize("case", BIPARTITE)
def test_bipartite_matching_of_the_original(golden, case):
    g = golden("bipartite")
    inputs, expected, config = g.of(case, "inputs"), g.of(case), g.config[case]
    x = inputs["x"]
    merge, unmerge = tome.bipartite_soft_matching(
        inputs["metric"], config["r"], config["class_token"], config["distill_token"]
    )
    for mode in ("mean", "sum", "amax"):
        torch.testing.assert_close(merge(x, mode=mode), expected[f"merge_{mode}"], **EXACT)
    for sizes, name in ((inputs["size"], "wavg"), (None, "wavg1")):
        merged, size = tome.merge_wavg(merge, x, sizes)
        torch.testing.assert_close(merged, expected[f"{name}_x"], **EXACT)
        torch.testing.assert_close(size, expected[f"{name}_size"], **EXACT)
    assert torch.equal(tome.merge_source(merge, x), expected["source"])
    back = unmerge(merge(x))
    if case == "cls_distill":  # the original has a bug here: it unmerges tokens that it had moved into wrong places
        assert not torch.allclose(back, expected["unmerge_of_mean"])
        members = expected["source"].mT  # [B, T, groups]
        torch.testing.assert_close(back, members @ expected["merge_mean"], **EXACT)
    else:
        torch.testing.assert_close(back, expected["unmerge_of_mean"], **EXACT)


@pytest.mark.parametrize("case", ["kth2", "kth3_rem", "kth4"])
def test_kth_matching_of_the_original(golden, case):
    g = golden("kth_random")
    inputs, expected = g.of(case, "inputs"), g.of(case)
    merge, unmerge = tome.kth_bipartite_soft_matching(inputs["metric"], g.config[case]["k"])
    for mode in ("mean", "sum"):
        torch.testing.assert_close(merge(inputs["x"], mode=mode), expected[f"merge_{mode}"], **EXACT)
    torch.testing.assert_close(unmerge(merge(inputs["x"])), expected["unmerge_of_mean"], **EXACT)


@pytest.mark.parametrize("case", ["rand5", "rand9"])
def test_random_matching_of_the_original(golden, case):
    g = golden("kth_random")
    inputs, expected, config = g.of(case, "inputs"), g.of(case), g.config[case]
    torch.manual_seed(config["seed"])
    if not torch.equal(torch.rand(inputs["uniform_draw"].shape), inputs["uniform_draw"]):
        pytest.skip("this torch draws other numbers from the seed")
    torch.manual_seed(config["seed"])
    merge, unmerge = tome.random_bipartite_soft_matching(inputs["metric"], config["r"])
    for mode in ("mean", "sum"):
        torch.testing.assert_close(merge(inputs["x"], mode=mode), expected[f"merge_{mode}"], **EXACT)
    torch.testing.assert_close(unmerge(merge(inputs["x"])), expected["unmerge_of_mean"], **EXACT)


def test_random_matching_draws_from_its_generator_only():
    metric, x = torch.rand(2, 12, 4), torch.rand(2, 12, 3)
    state = torch.get_rng_state()
    merged = [
        tome.random_bipartite_soft_matching(metric, 4, torch.Generator().manual_seed(seed))[0](x) for seed in (1, 1, 2)
    ]
    assert torch.equal(merged[0], merged[1])
    assert not torch.equal(merged[0], merged[2])
    assert torch.equal(torch.get_rng_state(), state)


@st.composite
def matchings(draw, kinds=("bipartite", "kth", "random")):
    """Draw tokens, and the functions merge and unmerge of a random matching of them."""
    batch, tokens, seed = draw(st.integers(1, 3)), draw(st.integers(3, 24)), draw(st.integers(0, 10**6))
    g = torch.Generator().manual_seed(seed)
    metric, x = torch.randn(batch, tokens, 5, generator=g), torch.randn(batch, tokens, 4, generator=g).double()
    kind = draw(st.sampled_from(kinds))
    if kind == "kth":
        pair = tome.kth_bipartite_soft_matching(metric, draw(st.integers(1, tokens)))
    elif kind == "random":
        pair = tome.random_bipartite_soft_matching(metric, draw(st.integers(0, tokens - 1)), generator=g)
    else:
        special = {"class_token": draw(st.booleans()), "distill_token": draw(st.booleans())}
        pair = tome.bipartite_soft_matching(metric, draw(st.integers(0, tokens + 3)), **special)
    return x, *pair


@given(matchings())
@settings(max_examples=150, deadline=None)
def test_every_token_is_in_one_group_and_sizes_are_conserved(case):
    x, merge, unmerge = case
    source = tome.merge_source(merge, x)
    counted = unmerge(merge(x)).shape[1]  # the k-th kind drops a remainder
    assert torch.equal(source.sum(1), (torch.arange(x.shape[1]) < counted).float().expand(x.shape[0], -1))
    merged, size = tome.merge_wavg(merge, x)
    assert torch.equal(size.sum((1, 2)), torch.full((x.shape[0],), counted).double())
    torch.testing.assert_close((merged * size).sum(1), x[:, :counted].sum(1))


@given(matchings())
@settings(max_examples=150, deadline=None)
def test_unmerging_gives_each_token_its_group_and_merging_again_changes_nothing(case):
    x, merge, unmerge = case
    members = tome.merge_source(merge, x).double()
    for mode in ("mean", "amax", "amin"):
        merged = merge(x, mode=mode)
        back = unmerge(merged)
        torch.testing.assert_close(back, (members.mT @ merged)[:, : back.shape[1]])
        padded = torch.cat([back, x[:, back.shape[1] :]], 1)
        torch.testing.assert_close(merge(padded, mode=mode), merged)
    one_token_each = members.argmax(-1)
    inside = torch.gather(x, 1, one_token_each[..., None].expand(-1, -1, 4))
    assert ((merge(x, mode="amin") <= inside) & (inside <= merge(x, mode="amax"))).all()


@given(matchings(), st.integers(0, 10**6))
@settings(max_examples=150, deadline=None)
def test_the_average_that_models_use_is_the_weighted_one(case, seed):
    x, merge, _ = case
    if not isinstance(getattr(merge, "__self__", None), Matching):
        return  # nothing to merge
    size = torch.randint(1, 9, (*x.shape[:2], 1), generator=torch.Generator().manual_seed(seed)).double()
    originals = x.clone(), size.clone()
    for got, expected in zip(merge.__self__.average(x, size), tome.merge_wavg(merge, x, size), strict=True):
        torch.testing.assert_close(got, expected)
    assert torch.equal(x, originals[0])
    assert torch.equal(size, originals[1])


def test_the_average_keeps_the_precision_of_tokens_and_has_their_gradient():
    g = torch.Generator().manual_seed(0)
    matching = matching_of(torch.randn(2, 9, 4, generator=g), 3, prefix=1, by_place=True)
    x, size = torch.randn(2, 9, 5, generator=g), torch.randint(1, 5, (2, 9, 1), generator=g).float()
    expected, _ = matching.average(x, size)
    half, sizes = matching.average(x.bfloat16(), size)
    assert (half.dtype, sizes.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(half.float(), expected, atol=0.05, rtol=0)
    inputs = x.double().requires_grad_(), size.double().requires_grad_()
    assert torch.autograd.gradcheck(matching.average, inputs)


def test_exported_with_a_dynamic_batch():
    class Merging(torch.nn.Module):
        def forward(self, x):
            merge, unmerge = tome.bipartite_soft_matching(x, 3, class_token=True)
            return unmerge(tome.merge_wavg(merge, x)[0])

    x = torch.rand(3, 9, 4, generator=torch.Generator().manual_seed(0))
    program = torch.export.export(Merging(), (x[:2],), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    torch.testing.assert_close(program.module()(x), Merging()(x))


@given(st.integers(0, 10**6), st.integers(1, 6), st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_order_of_channels_and_of_samples_does_not_matter(seed, r, class_token):
    g = torch.Generator().manual_seed(seed)
    metric, x = torch.randn(4, 13, 6, generator=g).double(), torch.randn(4, 13, 5, generator=g)
    merged = tome.bipartite_soft_matching(metric, r, class_token)[0](x)
    samples, channels = torch.randperm(4, generator=g), torch.randperm(6, generator=g)
    other = tome.bipartite_soft_matching(metric[samples][..., channels], r, class_token)[0](x[samples])
    torch.testing.assert_close(other, merged[samples])


@given(st.integers(0, 10**6), st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_tokens_that_swap_places_within_their_half_swap_groups(seed, r):
    """Matching is equivariant to permutations of the even places among themselves, and of the odd ones."""
    g = torch.Generator().manual_seed(seed)
    metric = torch.randn(1, 12, 6, generator=g).double()
    order = torch.stack([2 * torch.randperm(6, generator=g), 2 * torch.randperm(6, generator=g) + 1], 1).flatten()
    merge, _ = tome.bipartite_soft_matching(metric, r)
    merge_moved, _ = tome.bipartite_soft_matching(metric[:, order], r)
    x = torch.randn(1, 12, 3, generator=g)
    groups, moved = (m.sort(1).values for m in (merge(x), merge_moved(x[:, order])))
    torch.testing.assert_close(groups, moved)


@pytest.mark.parametrize("mode", MODES)
def test_gradients_flow_through_merging(mode):
    g = torch.Generator().manual_seed(0)
    metric, x = torch.randn(2, 9, 4, generator=g), torch.rand(2, 9, 3, generator=g).double().requires_grad_()
    merge, unmerge = tome.bipartite_soft_matching(metric, 4, class_token=True)
    assert torch.autograd.gradcheck(lambda x: unmerge(merge(x, mode=mode)), x)
    assert torch.autograd.gradcheck(lambda x: tome.merge_wavg(merge, x)[0], x)


@pytest.mark.parametrize("grain_size", [10, 40])  # the rows that merge have 2 x 4 x 3 elements
def test_averages_in_parts_are_those_in_one_piece_and_gradients_flow(grain_size, monkeypatch):
    g = torch.Generator().manual_seed(0)
    metric, x = torch.randn(2, 9, 4, generator=g), torch.rand(2, 9, 3, generator=g).double()
    size = torch.rand(2, 9, 1, generator=g).double() + 1
    found = matching_of(metric, 4, 1, True)
    expected = found.average(x, size)
    monkeypatch.setattr(matching, "GRAIN_SIZE", grain_size)
    again = matching_of(metric, 4, 1, True)
    for name in ("kept", "merged", "into"):
        assert torch.equal(getattr(again, name), getattr(found, name))
    for one, other in zip(again.average(x, size), expected, strict=True):
        torch.testing.assert_close(one, other)
    assert torch.autograd.gradcheck(lambda x, size: again.average(x, size), (x.requires_grad_(), size.requires_grad_()))


def test_matching_takes_no_gradient():
    metric = torch.randn(1, 8, 4, requires_grad=True)
    assert not tome.bipartite_soft_matching(metric, 3)[0](torch.rand(1, 8, 2)).requires_grad


def test_nothing_to_merge_gives_the_tokens_back():
    metric, x = torch.randn(1, 8, 4), torch.rand(1, 8, 2)
    for merge, unmerge in (
        tome.bipartite_soft_matching(metric, 0),
        tome.bipartite_soft_matching(metric, -3),
        tome.bipartite_soft_matching(metric[:, :2], 5, class_token=True),
        tome.kth_bipartite_soft_matching(metric, 1),
        tome.random_bipartite_soft_matching(metric, 0),
    ):
        assert merge(x) is x
        assert unmerge(x) is x


def test_a_zero_vector_is_most_similar_to_all():
    metric = torch.eye(6)[None].clone()
    metric[0, 2] = 0  # at an even place it is the first to merge
    assert tome.bipartite_soft_matching(metric, 1)[0](torch.arange(6.0).view(1, 6, 1)).shape == (1, 5, 1)
    assert 2.0 not in tome.bipartite_soft_matching(metric, 1)[0](torch.arange(6.0).view(1, 6, 1))
    metric[0, 2, 2], metric[0, 3] = 1, 0  # at an odd place everything merges into it
    merged = tome.bipartite_soft_matching(metric, 3)[0](torch.ones(1, 6, 1), mode="sum")
    assert merged.flatten().tolist() == [1, 4, 1]


def test_only_the_distillation_token_is_special():
    g = torch.Generator().manual_seed(1)
    x = torch.randn(1, 8, 4, generator=g)
    source = tome.merge_source(tome.bipartite_soft_matching(x, 3, distill_token=True)[0], x)
    assert source[0, 1].tolist() == [0, 1, 0, 0, 0, 0, 0, 0]  # still second, and alone


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_matched_in_single(dtype):
    g = torch.Generator().manual_seed(2)
    metric = torch.randn(2, 32, 8, generator=g).to(dtype)
    x = torch.rand(2, 32, 3, generator=g)
    expected = tome.bipartite_soft_matching(metric.float(), 9)[0](x)
    assert torch.equal(tome.bipartite_soft_matching(metric, 9)[0](x), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(tome.bipartite_soft_matching(metric.float(), 9)[0](x), expected)
    assert tome.bipartite_soft_matching(metric, 9)[0](metric).dtype == dtype


def test_shapes_do_not_depend_on_the_data():
    with torch.device("meta"):
        merge, unmerge = tome.bipartite_soft_matching(torch.rand(2, 10, 4), 3, class_token=True)
        merged = merge(torch.rand(2, 10, 6, 7))
    assert merged.shape == (2, 7, 6, 7)
    assert unmerge(merged).shape == (2, 10, 6, 7)


METRIC = torch.rand(1, 6, 4)
PAIR = tome.bipartite_soft_matching(METRIC, 1)
BAD = {
    "no integer": (lambda: tome.bipartite_soft_matching(METRIC, 1.5), "r is 1.5, not an integer"),
    "a truth": (lambda: tome.bipartite_soft_matching(METRIC, True), "r is True, not an integer"),
    "no batch": (lambda: tome.bipartite_soft_matching(METRIC[0], 1), r"float32 \[6, 4\], not floating point \[batch"),
    "integers": (lambda: tome.bipartite_soft_matching(METRIC.long(), 1), "metric is torch.int64"),
    "sparse": (lambda: tome.bipartite_soft_matching(METRIC.to_sparse(), 1), r"layout torch.sparse_coo; a dense one is"),
    "sparse rows": (lambda: tome.kth_bipartite_soft_matching(METRIC.to_sparse_csr(), 2), "layout torch.sparse_csr"),
    "NumPy": (lambda: tome.bipartite_soft_matching(np.ones((1, 6, 4)), 1), "metric is a ndarray, not a torch.Tensor"),
    "more samples": (lambda: PAIR[0](torch.rand(2, 6, 1)), r"x is \[2, 6, 1\]; .* for tokens \[1, 6, ...\]"),
    "more tokens": (lambda: PAIR[0](torch.rand(1, 7, 1)), r"x is \[1, 7, 1\]; .* for tokens \[1, 6, ...\]"),
    "not merged": (lambda: PAIR[1](torch.rand(1, 6, 1)), r"x is \[1, 6, 1\]; .* for tokens \[1, 5, ...\]"),
    "sizes": (lambda: tome.merge_wavg(PAIR[0], METRIC, torch.ones(1, 1, 1)), r"x is \[1, 1, 1\]; .* \[1, 6"),
    "an array": (lambda: PAIR[0](np.ones((1, 6, 1))), r"x is a ndarray; .* for tokens \[1, 6, ...\]"),
    "NaN": (lambda: tome.bipartite_soft_matching(METRIC * torch.nan, 1), "metric has NaN"),
    "mode": (lambda: tome.bipartite_soft_matching(METRIC, 1)[0](METRIC, mode="max"), "mode 'max' is none of mean, sum"),
    "k": (lambda: tome.kth_bipartite_soft_matching(METRIC, 7), "k is 7, more than the 6 tokens"),
    "all": (lambda: tome.random_bipartite_soft_matching(METRIC, 6), "r is 6, which leaves none of 6 tokens"),
}


@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_in_one_line(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
