"""Every architecture of diffusers that is supported, and the levels at which tokens merge."""

import pytest
import torch

import tome
from plm_core.errors import NotSupported

from .tiny_models import ARCHITECTURES, Seen, attends, call, inputs, unet


@pytest.fixture(params=ARCHITECTURES)
def architecture(request):
    return ARCHITECTURES[request.param]


SELF_ATTENTION = (".attn1.to_q", ".attn.to_q", ".attn2.to_v")  # cross-attention's to_v sees the text


def test_every_architecture_attends_to_fewer_tokens_and_sees_all_elsewhere(architecture):
    model, given = architecture.build(), architecture.given()
    plain = call(model, **given)
    attention, mlp = Seen(model, *SELF_ATTENTION), Seen(model, ".ff", "proj_mlp")
    before = [seen.during(lambda: call(model, **given)) for seen in (attention, mlp)]
    tome.diffusion.apply(model, 0.5, seed=0)
    after = [seen.during(lambda: call(model, **given)) for seen in (attention, mlp)]
    left = {length: length - min(architecture.lengths) // 2 for length in architecture.lengths}
    assert set(architecture.lengths) <= set(before[0])
    assert after[0] == [left.get(tokens, tokens) for tokens in before[0]]
    assert after[1] == before[1]
    merged = call(model, **given)
    assert merged.shape == plain.shape
    assert not torch.allclose(merged, plain, atol=1e-4)
    tome.diffusion.remove(model)
    assert torch.equal(call(model, **given), plain)


def test_every_architecture_keeps_what_is_not_merged(architecture):
    """Where attention gives nothing, merging for it changes nothing."""
    model, given = architecture.build(), architecture.given()
    for name, module in model.named_modules():
        if name.endswith((".to_v", ".add_v_proj")):
            for parameter in module.parameters():
                torch.nn.init.zeros_(parameter)
    plain = call(model, **given)
    attention = Seen(model, *SELF_ATTENTION)
    before = attention.during(lambda: call(model, **given))
    tome.diffusion.apply(model, 0.75, seed=0)
    assert sum(attention.during(lambda: call(model, **given))) < sum(before)
    torch.testing.assert_close(call(model, **given), plain, atol=1e-5, rtol=1e-5)


def test_ratio_0_is_identity(architecture):
    model, given = architecture.build(), architecture.given()
    plain = call(model, **given)
    tome.diffusion.apply(model, 0, seed=0)
    assert torch.equal(call(model, **given), plain)


@pytest.mark.parametrize("name", ["SD", "SD3", "Flux"])
def test_half_precision_stays_what_it_is(name):
    model = ARCHITECTURES[name].build().to(torch.bfloat16)
    given = {k: v.bfloat16() if torch.is_tensor(v) and v.is_floating_point() else v
             for k, v in ARCHITECTURES[name].given().items()}  # fmt: skip
    tome.diffusion.apply(model, 0.5, seed=0, merge_mlp=True)
    out = call(model, **given)
    assert out.dtype == torch.bfloat16
    assert out.isfinite().all()


def test_sdxl_is_merged_where_its_attention_starts():
    model, given = ARCHITECTURES["SDXL"].build(), ARCHITECTURES["SDXL"].given()
    with pytest.raises(
        NotSupported, match="max_downsample is 1, but the attention of UNet2DConditionModel starts at 2"
    ):
        tome.diffusion.apply(model, max_downsample=1)
    outs = []
    for level in (None, 2, 3, 4):
        tome.diffusion.apply(model, max_downsample=level, seed=0)
        outs.append(call(model, **given))
        tome.diffusion.remove(model)
    assert all(torch.equal(out, outs[0]) for out in outs)


def test_lower_levels_only_when_asked():
    model, given = unet(**attends(levels=(True, True))), inputs()
    attention = Seen(model, ".attn1.to_q")
    for level, expected in ((None, {32, 16}), (1, {32, 16}), (2, {32, 8}), (4, {32, 8})):
        tome.diffusion.apply(model, 0.5, max_downsample=level, seed=0)
        assert set(attention.during(lambda: call(model, *given))) == expected
        tome.diffusion.remove(model)


def test_a_grid_smaller_than_a_window_is_left_alone():
    model, given = unet(**attends(levels=(True, True))), inputs(h=4, w=6)
    attention = Seen(model, ".attn1.to_q")
    tome.diffusion.apply(model, 0.5, sx=4, max_downsample=2, seed=0)
    assert set(attention.during(lambda: call(model, *given))) == {12, 6}


def test_keyword_calls_are_positional_calls():
    model, given, outs = unet(), inputs(), []
    names = ("sample", "timestep", "encoder_hidden_states")
    for args, kwargs in ((given, {}), ((), dict(zip(names, given, strict=True)))):
        tome.diffusion.apply(model, (0.6, 0.2), seed=0)
        outs.append(call(model, *args, **kwargs))
        tome.diffusion.remove(model)
    assert torch.equal(*outs)
