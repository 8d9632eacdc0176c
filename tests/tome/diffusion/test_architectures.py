"""Every architecture of diffusers that is supported, and the levels at which tokens merge."""

import pytest
import torch

import tome
from plm_core.errors import NotSupported

from .tiny_models import ARCHITECTURES, TokenCounter, attends, call, inputs, unet


@pytest.fixture(params=ARCHITECTURES)
def architecture(request):
    return ARCHITECTURES[request.param]


SELF_ATTENTION = (".attn1.to_q", ".attn.to_q", ".attn2.to_v")  # in cross-attention, to_v gets the text


def test_every_architecture_attends_to_fewer_tokens_and_has_all_elsewhere(architecture):
    model, kwargs = architecture.build(), architecture.inputs()
    plain = call(model, **kwargs)
    attention, mlp = TokenCounter(model, *SELF_ATTENTION), TokenCounter(model, ".ff", "proj_mlp")
    before = [counter.during(lambda: call(model, **kwargs)) for counter in (attention, mlp)]
    tome.diffusion.apply(model, 0.5, seed=0)
    after = [counter.during(lambda: call(model, **kwargs)) for counter in (attention, mlp)]
    left = {length: length - min(architecture.lengths) // 2 for length in architecture.lengths}
    assert set(architecture.lengths) <= set(before[0])
    assert after[0] == [left.get(tokens, tokens) for tokens in before[0]]
    assert after[1] == before[1]
    merged = call(model, **kwargs)
    assert merged.shape == plain.shape
    assert not torch.allclose(merged, plain, atol=1e-4)
    tome.diffusion.remove(model)
    assert torch.equal(call(model, **kwargs), plain)


def test_every_architecture_keeps_what_is_not_merged(architecture):
    """Merging for attention changes nothing if attention adds nothing."""
    model, kwargs = architecture.build(), architecture.inputs()
    for name, module in model.named_modules():
        if name.endswith((".to_v", ".add_v_proj")):
            for parameter in module.parameters():
                torch.nn.init.zeros_(parameter)
    plain = call(model, **kwargs)
    attention = TokenCounter(model, *SELF_ATTENTION)
    before = attention.during(lambda: call(model, **kwargs))
    tome.diffusion.apply(model, 0.75, seed=0)
    assert sum(attention.during(lambda: call(model, **kwargs))) < sum(before)
    torch.testing.assert_close(call(model, **kwargs), plain, atol=1e-5, rtol=1e-5)


def test_ratio_0_is_identity(architecture):
    model, kwargs = architecture.build(), architecture.inputs()
    plain = call(model, **kwargs)
    tome.diffusion.apply(model, 0, seed=0)
    assert torch.equal(call(model, **kwargs), plain)


@pytest.mark.parametrize("name", ["SD", "SD3", "Flux"])
def test_half_precision_is_kept(name):
    model = ARCHITECTURES[name].build().to(torch.bfloat16)
    kwargs = {k: v.bfloat16() if torch.is_tensor(v) and v.is_floating_point() else v
             for k, v in ARCHITECTURES[name].inputs().items()}  # fmt: skip
    tome.diffusion.apply(model, 0.5, seed=0, merge_mlp=True)
    out = call(model, **kwargs)
    assert out.dtype == torch.bfloat16
    assert out.isfinite().all()


def test_sdxl_is_merged_where_its_attention_starts():
    model, kwargs = ARCHITECTURES["SDXL"].build(), ARCHITECTURES["SDXL"].inputs()
    with pytest.raises(
        NotSupported, match="max_downsample is 1, but the attention of UNet2DConditionModel starts at 2"
    ):
        tome.diffusion.apply(model, max_downsample=1)
    outs = []
    for level in (None, 2, 3, 4):
        tome.diffusion.apply(model, max_downsample=level, seed=0)
        outs.append(call(model, **kwargs))
        tome.diffusion.remove(model)
    assert all(torch.equal(out, outs[0]) for out in outs)


def test_lower_levels_only_when_asked():
    model, args = unet(**attends(levels=(True, True))), inputs()
    attention = TokenCounter(model, ".attn1.to_q")
    for level, expected in ((None, {32, 16}), (1, {32, 16}), (2, {32, 8}), (4, {32, 8})):
        tome.diffusion.apply(model, 0.5, max_downsample=level, seed=0)
        assert set(attention.during(lambda: call(model, *args))) == expected
        tome.diffusion.remove(model)


def test_a_grid_smaller_than_a_window_is_left_alone():
    model, args = unet(**attends(levels=(True, True))), inputs(h=4, w=6)
    attention = TokenCounter(model, ".attn1.to_q")
    tome.diffusion.apply(model, 0.5, sx=4, max_downsample=2, seed=0)
    assert set(attention.during(lambda: call(model, *args))) == {12, 6}


def test_keyword_calls_are_positional_calls():
    model, values, outs = unet(), inputs(), []
    names = ("sample", "timestep", "encoder_hidden_states")
    for args, kwargs in ((values, {}), ((), dict(zip(names, values, strict=True)))):
        tome.diffusion.apply(model, (0.6, 0.2), seed=0)
        outs.append(call(model, *args, **kwargs))
        tome.diffusion.remove(model)
    assert torch.equal(*outs)
