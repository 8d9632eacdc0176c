"""The matching of a token grid: recorded matchings of tomesd, and a slow reference."""

import pytest
import torch

import tome
from plm_core.errors import InputError
from tome.diffusion import matching as matching_module

from .slow_references import slow_groups, slow_merge

RANDOM2D = ["norand_8x8", "rand_8x6", "rand_7x5_nodiv", "rand_8x8_sx4_sy2", "norand_clip"]


@pytest.mark.parametrize("case", RANDOM2D)
def test_recorded_matchings(golden, case):
    recorded = golden("sd_random2d")
    config, recorded_inputs, expected = recorded.config[case], recorded.of(case, "inputs"), recorded.of(case)
    generator = torch.Generator().manual_seed(config["generator_seed"])
    sizes = (config[name] for name in ("w", "h", "sx", "sy", "r", "no_rand"))
    merge, unmerge = tome.diffusion.bipartite_soft_matching_random2d(recorded_inputs["metric"], *sizes, generator)
    tokens = torch.arange(recorded_inputs["x"].shape[1]).expand(recorded_inputs["x"].shape[0], -1)[..., None]
    # an output token has the place of its destination: find it by merging places in which those of sources are -1
    destinations = expected["dst_sorted"]
    is_destination = torch.isin(tokens, destinations)
    left = tokens.shape[1] - destinations.numel() - min(config["r"], tokens.shape[1] - destinations.numel())
    merged = merge(tokens.double(), mode="amax")[:, :left, 0]
    assert torch.equal(merged.sort(-1).values.long(), expected["unmerged_sorted"])
    places = merge(torch.where(is_destination, tokens, -1), mode="amax")[:, left:, 0]
    assert torch.equal(places, destinations.expand_as(places))  # in ascending order, which tomesd leaves open
    for mode in ("mean", "sum"):
        out = merge(recorded_inputs["x"], mode=mode)
        canonical = torch.cat([out[:, :left].take_along_dim(merged.argsort(-1)[..., None], 1), out[:, left:]], 1)
        torch.testing.assert_close(canonical, expected[f"merge_{mode}_canon"], atol=1e-5, rtol=0)
    torch.testing.assert_close(unmerge(merge(recorded_inputs["x"])), expected["unmerge_of_mean"], atol=1e-5, rtol=0)
    places = torch.cat([merged, destinations.expand(len(merged), -1).double()], 1)
    assert torch.equal(unmerge(places[..., None])[..., 0].long(), expected["assign"])


@pytest.mark.parametrize(
    ("w", "h", "sx", "sy", "r"), [(6, 4, 2, 2, 12), (5, 7, 3, 2, 20), (4, 9, 1, 3, 99), (3, 3, 3, 3, 4)]
)
def test_matching_is_what_the_paper_says(w, h, sx, sy, r):
    metric = torch.randn(2, w * h, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(w))
    choice = torch.randint(sx * sy, (h // sy, w // sx, 1), generator=torch.Generator().manual_seed(h))[..., 0].tolist()
    merge, unmerge = tome.diffusion.bipartite_soft_matching_random2d(
        metric, w, h, sx, sy, r, generator=torch.Generator().manual_seed(h)
    )
    out = unmerge(merge(metric))
    for sample, got in zip(metric, out, strict=True):
        tokens, group = slow_merge(sample, slow_groups(sample, w, h, sx, sy, r, choice))
        torch.testing.assert_close(got, tokens[group])
        assert merge(metric).shape[1] == len(tokens)


def test_half_precision_is_compared_in_float32():
    metric = torch.randn(2, 64, 8, generator=torch.Generator().manual_seed(0))
    place = torch.arange(64.0).expand(2, -1)[..., None]
    for dtype in (torch.bfloat16, torch.float16):
        pairs = (tome.diffusion.bipartite_soft_matching_random2d(m, 8, 8, 2, 2, 30, True) for m in
                 (metric.to(dtype), metric.to(dtype).float()))  # fmt: skip
        low, high = (merge(place) for merge, _ in pairs)
        assert torch.equal(low, high)


def test_max_in_two_steps_is_max():
    scores = torch.randn(2, 50, 96, generator=torch.Generator().manual_seed(0))
    scores[0, :20] = scores[0, :20].round()  # with ties, the first one counts
    scores[1, 3, 70:] = torch.nan
    scores[1, 4] = torch.nan
    for wide in (scores, scores[..., :50]):
        best, where = matching_module._max(wide)
        expected = wide.max(-1)
        assert torch.equal(best.nan_to_num(9), expected.values.nan_to_num(9))
        assert torch.equal(where, expected.indices)


def test_matching_in_parts_is_matching_at_once(monkeypatch):
    metric = torch.randn(2, 64, 8, generator=torch.Generator().manual_seed(0))
    parts, similarity = [], matching_module.similarity
    monkeypatch.setattr(matching_module, "similarity", lambda a, b: parts.append(a.shape[1]) or similarity(a, b))
    whole, _ = tome.diffusion.bipartite_soft_matching_random2d(metric, 8, 8, 2, 2, 30, True)
    monkeypatch.setattr(matching_module, "MAX_SCORES", 2 * 16 * 20)
    in_parts, _ = tome.diffusion.bipartite_soft_matching_random2d(metric, 8, 8, 2, 2, 30, True)
    assert parts == [48, 20, 20, 8]
    assert torch.equal(whole(metric), in_parts(metric))


def test_no_tokens_to_merge_is_identity():
    x = torch.rand(1, 16, 3)
    for r in (0, -2):
        merge, unmerge = tome.diffusion.bipartite_soft_matching_random2d(x, 4, 4, 2, 2, r)
        assert merge(x, mode="sum") is x
        assert unmerge(x) is x


def test_without_a_generator_the_global_one_chooses():
    x = torch.rand(1, 64, 3)

    def merged():
        return tome.diffusion.bipartite_soft_matching_random2d(x, 8, 8, 2, 2, 32)[0](x)

    torch.manual_seed(1)
    first, second = merged(), merged()
    torch.manual_seed(1)
    assert torch.equal(merged(), first)
    assert not torch.equal(first, second)


BAD_MATCHING = {
    "tokens": ({"w": 5}, "16 tokens, not w x h = 5 x 4"),
    "two dimensions": ({"metric": torch.rand(16, 3)}, "metric is"),
    "integers": ({"metric": torch.ones(1, 16, 3, dtype=torch.int64)}, "metric is"),
    "NaN": ({"metric": torch.full((1, 16, 3), torch.nan)}, "metric has NaN"),
    "sx": ({"sx": 0}, "sx is 0"),
    "sy": ({"sy": -1}, "sy is -1"),
    "sy float": ({"sy": 2.0}, "sy is 2.0"),
    "h": ({"h": True}, "h is True"),
    "r": ({"r": 2.5}, "r is 2.5"),
    "window": ({"sx": 5}, "windows of sx x sy = 5 x 2 do not fit into w x h = 4 x 4"),
}


@pytest.mark.parametrize(("change", "message"), BAD_MATCHING.values(), ids=BAD_MATCHING)
def test_bad_arguments_of_matching(change, message):
    good = {"metric": torch.rand(1, 16, 3), "w": 4, "h": 4, "sx": 2, "sy": 2, "r": 4}
    tome.diffusion.bipartite_soft_matching_random2d(**good)
    with pytest.raises(InputError, match=message) as raised:
        tome.diffusion.bipartite_soft_matching_random2d(**good | change)
    assert "\n" not in str(raised.value)
