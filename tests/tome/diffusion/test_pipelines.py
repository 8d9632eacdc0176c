"""Pipelines, and the ControlNets in them."""

from types import SimpleNamespace

import pytest
import torch

import tome

from .tiny_models import ARCHITECTURES, TokenCounter, call, generate, inputs, pipeline, unet

diffusers = pytest.importorskip("diffusers")


def test_controlnets_of_a_pipeline_are_merged_too():
    net = ARCHITECTURES["ControlNet"]
    several = diffusers.MultiControlNetModel([net.build(), net.build()])
    for controlnet, parts in ((net.build(), lambda c: [c]), (several, lambda c: list(c.nets))):
        model = unet(mid_block_type="UNetMidBlock2DCrossAttn")
        image = torch.rand(1, 3, 16, 16)
        pipe = pipeline(model, controlnet)
        attention = [
            TokenCounter(part, "blocks.0.attentions.0.transformer_blocks.0.attn1.to_q")
            for part in (model, *parts(controlnet))
        ]
        more = {"image": image if controlnet is not several else [image, image], "height": 16, "width": 16}
        more |= {"num_inference_steps": 2, "latents": torch.randn(1, 4, 8, 8)}
        pipe.vae_scale_factor = 2
        plain = generate(pipe, **more)
        tome.apply(pipe, ratio=0.5)
        for counter in attention:
            counter.tokens.clear()
        merged = generate(pipe, **more)
        assert [set(counter.tokens) for counter in attention] == [{32}] * len(attention)
        assert not torch.allclose(plain, merged, atol=1e-4)
        tome.remove(pipe)
        assert torch.equal(generate(pipe, **more), plain)


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_a_controlnet_guides_a_merged_unet(scale):
    """A pipeline step equals calling its models by hand, both with merging: the whole ControlNet output is added."""
    net, model = ARCHITECTURES["ControlNet"].build(), unet(mid_block_type="UNetMidBlock2DCrossAttn")
    torch.manual_seed(0)
    image, latents, text = torch.rand(1, 3, 16, 16), torch.randn(1, 4, 8, 8), inputs(1)[2]
    pipe = pipeline(model, net)
    pipe.vae_scale_factor = 2
    captured = {}
    tome.apply(pipe, ratio=0.5, use_rand=False)
    hook = model.register_forward_hook(lambda module, args, output: captured.update(noise=output[0]))
    one = {"image": image, "height": 16, "width": 16, "num_inference_steps": 1, "latents": latents}
    generate(pipe, **one, controlnet_conditioning_scale=scale)
    hook.remove()
    both, texts, t = torch.cat([latents] * 2), torch.cat([-text, text]), pipe.scheduler.timesteps[0]
    with torch.no_grad():
        down, mid = net(both, t, texts, torch.cat([image] * 2), conditioning_scale=scale, return_dict=False)
        added = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
        torch.testing.assert_close(captured["noise"], model(both, t, texts, **added).sample)
        plain = model(both, t, texts).sample
        tome.remove(net)  # its blocks merge tokens too
        alone, _ = net(both, t, texts, torch.cat([image] * 2), conditioning_scale=scale, return_dict=False)
    assert torch.allclose(captured["noise"], plain, atol=1e-4) == (scale == 0)
    assert torch.allclose(alone[-1], down[-1], atol=1e-4) == (scale == 0)


def test_a_pipeline_with_a_transformer():
    model = ARCHITECTURES["SD3"].build()
    pipe = SimpleNamespace(transformer=model, unet=None)
    plain = call(model, **ARCHITECTURES["SD3"].inputs())
    tome.diffusion.apply(pipe, seed=0)
    assert not torch.allclose(call(model, **ARCHITECTURES["SD3"].inputs()), plain, atol=1e-4)
