"""The state that a model keeps between its calls: ratios, matchings, sizes and random choices."""

import warnings

import pytest
import torch

import tome
from plm_core.errors import InputError, NotSupported
from tome.diffusion.matching import match

from .tiny_models import ARCHITECTURES, TokenCounter, attends, call, ids, inputs, unet


@pytest.fixture
def matched_shapes(monkeypatch):
    """A list to which every matching adds the shape of its metric."""
    from tome.diffusion import state

    shapes, match = [], state.match
    monkeypatch.setattr(
        state, "match", lambda metric, *args: shapes.append(tuple(metric.shape)) or match(metric, *args)
    )
    return shapes


def test_ratio_changes_over_the_steps():
    model, (sample, _, text) = unet(), inputs()
    attention = TokenCounter(model, ".attn1.to_q")
    ways = {(0.75, 0.25): [16, 24, 32, 48], (0, 0.5): [64, 56, 48, 32]}
    ways |= {(lambda progress: 0.5 if progress > 0.4 else 0.0): [64, 64, 32, 32]}
    for ratio, expected in ways.items():
        tome.diffusion.apply(model, ratio, seed=0)
        for timestep, tokens in zip((1000, 750, 500, 0), expected, strict=True):
            assert set(attention.during(lambda t=timestep: call(model, sample, t, text))) == {tokens}
        tome.diffusion.remove(model)


def test_ratio_changes_with_the_timesteps_of_flux():
    model, kwargs = ARCHITECTURES["Flux"].build(), ARCHITECTURES["Flux"].inputs()
    attention = TokenCounter(model, "transformer_blocks.0.attn.to_q")
    tome.diffusion.apply(model, (0.75, 0.25), seed=0)
    for timestep, tokens in ((1.0, 12), (0.5, 24), (0.0, 36)):
        kwargs["timestep"] = torch.full((2,), timestep)
        assert attention.during(lambda: call(model, **kwargs)) == [tokens, tokens + 5]


def test_a_function_that_returns_no_ratio_is_an_error():
    model, args = unet(), inputs()
    for wrong in (0.9, None, -0.1, float("nan")):
        tome.diffusion.apply(model, lambda progress, wrong=wrong: wrong)
        with pytest.raises(InputError, match=r"not a number from 0 to 0\.75"):
            call(model, *args)
        tome.diffusion.remove(model)


def test_matchings_are_shared_by_blocks_of_a_level(matched_shapes):
    model, args = unet(**attends(levels=(True, True)), mid_block_type="UNetMidBlock2DCrossAttn"), inputs()
    blocks = sum(name.endswith(".attn1") for name, _ in model.named_modules())
    for share, expected in ((False, blocks), (True, 2)):
        tome.diffusion.apply(model, max_downsample=4, share=share, seed=0)
        matched_shapes.clear()
        call(model, *args)
        assert len(matched_shapes) == expected
        tome.diffusion.remove(model)
    assert [shape[1] for shape in matched_shapes] == [64, 16]


def test_matchings_are_used_again_for_some_steps(matched_shapes):
    model, (sample, _, text) = unet(), inputs()
    tome.diffusion.apply(model, reuse_steps=2, share=True, seed=0)
    counts, outs = [], {}
    for timestep in (900, 700, 500, 300, 100, 900, 700):  # the last two are another image, which starts a new pair
        outs.setdefault(timestep, []).append(call(model, sample, timestep, text))
        counts.append(len(matched_shapes))
    assert counts == [1, 1, 2, 2, 3, 4, 4]
    tome.diffusion.remove(model)
    tome.diffusion.apply(model, share=True, seed=0)
    first, second = (call(model, sample, timestep, text) for timestep in (900, 700))
    assert torch.equal(first, outs[900][0])
    assert not torch.allclose(second, outs[700][0], atol=1e-5)  # there the tokens of the step before were used


def test_matchings_of_one_image_are_not_used_for_the_next_one_of_one_step_models(matched_shapes):
    model, (sample, _, text) = unet(), inputs()
    tome.diffusion.apply(model, reuse_steps=9, share=True, seed=0)
    for image, expected in ((0, 1), (1, 2), (2, 3)):
        for half in (text, -text):  # the halves of classifier-free guidance have the same latents
            call(model, sample + image, 999, half)
            assert len(matched_shapes) == expected
    for image, timestep in enumerate((799, 599, 599, 399)):  # PNDM evaluates a timestep twice: still the same image
        call(model, sample * image, timestep, text)
    assert len(matched_shapes) == 3


@pytest.mark.parametrize(("h", "w", "sx", "sy"), [(2, 8, 4, 1), (8, 2, 1, 4), (8, 4, 2, 4), (2, 8, 8, 2)])
def test_windows_lie_along_rows_and_columns(h, w, sx, sy):
    """A window of sx columns and sy rows keeps one token; the first of each window, since nothing is random."""
    model = unet()
    tome.diffusion.apply(model, ratio=1 - 1 / (sx * sy), sx=sx, sy=sy, use_rand=False)
    call(model, *inputs(h=h, w=w))
    (kept,) = {tuple(m.kept[0].tolist()) for m in model.tome_merging.matchings.values()}
    assert sorted(kept) == sorted(y * w + x for y in range(0, h, sy) for x in range(0, w, sx))


def test_an_empty_batch():
    matching = match(torch.rand(0, 16, 4), 4, 4, 2, 2, 5, None)
    assert matching.merge(torch.rand(0, 16, 3)).shape == (0, 11, 3)
    merge, unmerge = tome.diffusion.bipartite_soft_matching_random2d(torch.rand(0, 16, 4), 4, 4, 2, 2, 5)
    assert unmerge(merge(torch.rand(0, 16, 3))).shape == (0, 16, 3)


def test_matchings_are_not_used_again_for_another_size(matched_shapes):
    model = unet()
    tome.diffusion.apply(model, reuse_steps=9, share=True, seed=0)
    for sizes in ({"h": 8, "w": 4}, {"h": 4, "w": 8}, {"h": 4, "w": 8, "batch": 4}, {"h": 4, "w": 8, "batch": 4}):
        call(model, *inputs(**sizes))
    assert [shape[0] for shape in matched_shapes] == [2, 2, 4]


def test_a_seed_makes_it_repeatable_and_leaves_the_global_generator_alone():
    model, args = unet(), inputs()
    runs = []
    for seed in (0, 0, 1, torch.Generator().manual_seed(0)):
        torch.manual_seed(len(runs))
        state = torch.get_rng_state()
        tome.diffusion.apply(model, seed=seed)
        runs.append([call(model, *args) for _ in range(2)])
        tome.diffusion.remove(model)
        assert torch.equal(torch.get_rng_state(), state)
    first, again, other, generator = runs
    assert not torch.equal(*first)
    assert all(map(torch.equal, first, again))
    assert all(map(torch.equal, first, generator))
    assert not torch.equal(first[0], other[0])


def test_a_seed_chooses_on_the_cpu_whatever_the_device():
    model = tome.diffusion.apply(unet(), seed=3)
    assert model.tome_merging._generator(torch.device("cuda", 0)).device.type == "cpu"


def test_a_generator_advances():
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    call(tome.diffusion.apply(unet(), seed=generator), *inputs())
    assert not torch.equal(generator.get_state(), before)


def test_without_a_seed_the_global_generator_counts_at_the_first_call_only():
    model, args = unet(), inputs()
    runs = []
    for later in (1, 2):
        tome.diffusion.apply(model)
        torch.manual_seed(0)
        first = call(model, *args)
        torch.manual_seed(later)
        runs.append((first, call(model, *args)))
        tome.diffusion.remove(model)
    assert all(map(torch.equal, *runs))
    assert not torch.equal(*runs[0])


def test_all_samples_keep_the_same_places():
    """Both halves of classifier-free guidance agree: the same latents and text give the same result."""
    model, (sample, timestep, text) = unet(), inputs(1)
    tome.diffusion.apply(model)
    cond, uncond = call(model, sample.repeat(2, 1, 1, 1), timestep, text.repeat(2, 1, 1))
    torch.testing.assert_close(cond, uncond, atol=1e-6, rtol=0)


def test_an_odd_batch_turns_randomness_off_and_warns_once():
    model, args = unet(), inputs(3)
    tome.diffusion.apply(model, use_rand=False)
    expected = call(model, *args)
    tome.diffusion.remove(model)
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state()
    tome.diffusion.apply(model, seed=generator)
    with pytest.warns(UserWarning, match="batch of 3.*turns use_rand off"):
        assert torch.equal(call(model, *args), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call(model, *args)
    assert torch.equal(generator.get_state(), state)


def test_calls_whose_grid_is_not_known():
    model, kwargs = ARCHITECTURES["Flux"].build(), ARCHITECTURES["Flux"].inputs()
    tome.diffusion.apply(model, seed=0)
    two = kwargs | {"hidden_states": torch.randn(2, 52, 8), "img_ids": torch.cat([ids(6, 8), ids(2, 2)])}
    with pytest.raises(NotSupported, match="img_ids are not those of one image"):
        call(model, **two)
    masked = kwargs | {"joint_attention_kwargs": {"attention_mask": torch.ones(2, 1, 1, 53).bool()}}
    with pytest.raises(NotSupported, match=r"attention_mask in the joint attention of transformer_blocks\.0"):
        call(model, **masked)
    with pytest.raises(NotSupported, match="latents None: their rows and columns are not known"):
        model()
    model = tome.diffusion.apply(unet())
    with pytest.raises(InputError, match=r"call the UNet2DConditionModel, not its block down_blocks\.0\.att"):
        model.down_blocks[0](torch.randn(2, 16, 8, 8), torch.randn(2, 64), torch.randn(2, 5, 12))
    call(model, *inputs())
    with pytest.raises(NotSupported, match=r"has tokens \[2, 16, 16\], not \[batch, 8 x 8, channels\]"):
        model.down_blocks[0](torch.randn(2, 16, 4, 4), torch.randn(2, 64), torch.randn(2, 5, 12))
