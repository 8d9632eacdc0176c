"""The same outputs as tomesd: recorded ones, and those of tomesd itself where it is installed."""

import pytest
import torch

import tome

from .tiny_models import attends, call, generate, inputs, pipeline, unet

diffusers = pytest.importorskip("diffusers")


def recorded_unet(golden):
    recorded = golden("sd_unet")
    model = diffusers.UNet2DConditionModel(**recorded.config["unet"]).eval()
    model.load_state_dict(recorded.weights)
    return model, recorded


@pytest.mark.parametrize("run", ["norand", "rand", "all_ds2", "sx3"])
def test_recorded_outputs(golden, run):
    model, recorded = recorded_unet(golden)
    sample, *rest = (recorded.inputs[name] for name in ("sample", "timestep", "encoder_hidden_states"))
    keys = list(model.state_dict())
    unpatched = call(model, sample, *rest)
    torch.testing.assert_close(unpatched, recorded.outputs["unpatched"], atol=2e-5, rtol=0)
    options = dict(recorded.config["runs"][run])
    seed = options.pop("seed", 123)
    assert tome.diffusion.apply(model, **options) is model
    assert list(model.state_dict()) == keys
    torch.manual_seed(seed)
    state = torch.get_rng_state()
    for i, factor in enumerate((1, 0.9)):
        expected = recorded.outputs[f"{run}.call{i + 1}"]
        assert (expected - unpatched).abs().max() > 0.1
        torch.testing.assert_close(call(model, factor * sample, *rest), expected, atol=2e-5, rtol=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert tome.diffusion.remove(model) is model
    assert torch.equal(call(model, sample, *rest), unpatched)
    assert not any(
        m._forward_hooks or m._forward_pre_hooks or m._forward_pre_hooks_with_kwargs for m in model.modules()
    )
    assert not [name for name in vars(model) if "tome" in name]


ORACLE = {
    "defaults": ({}, {}),
    "narrow windows": ({"ratio": 0.6, "sx": 4, "sy": 1}, {}),
    "all levels and parts": ({"ratio": 0.3, "max_downsample": 4, "merge_crossattn": True, "merge_mlp": True}, {}),
    "not divisible": ({"ratio": 0.5, "max_downsample": 2, "merge_mlp": True}, {"h": 9, "w": 13}),
    "odd batch": ({"ratio": 0.5}, {"batch": 3}),
}


@pytest.mark.parametrize(("options", "sizes"), ORACLE.values(), ids=ORACLE)
@pytest.mark.filterwarnings("ignore:.*odd batch")
def test_the_original_says_the_same(options, sizes):
    tomesd = pytest.importorskip("tomesd")
    model = unet(**attends(levels=(True, True)))
    args = inputs(**sizes)
    steps = [(args[0] * factor, *args[1:]) for factor in (1, 0.8, 0.6)]
    tomesd.apply_patch(model, **options)
    torch.manual_seed(5)
    theirs = [call(model, *step) for step in steps]
    tomesd.remove_patch(model)
    unpatched = [call(model, *step) for step in steps]
    tome.diffusion.apply(model, **options)
    torch.manual_seed(5)
    for step, expected, plain in zip(steps, theirs, unpatched, strict=True):
        assert (expected - plain).abs().max() > 1e-3
        torch.testing.assert_close(call(model, *step), expected, atol=2e-5, rtol=0)


def test_a_pipeline_is_patched_like_the_original_does():
    tomesd = pytest.importorskip("tomesd")
    pipe = pipeline(unet())
    plain = generate(pipe)
    tomesd.apply_patch(pipe, ratio=0.5)
    torch.manual_seed(2)
    theirs = generate(pipe)
    tomesd.remove_patch(pipe)
    assert tome.apply(pipe, ratio=0.5) is pipe
    torch.manual_seed(2)
    ours = generate(pipe)
    assert (ours - plain).abs().max() > 1e-3
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-5)
    tome.remove(pipe)
    assert torch.equal(generate(pipe), plain)
