"""`apply` and `remove`: wrappers, settings that replace others, warnings, and refused arguments."""

from types import SimpleNamespace

import pytest
import torch

import tome
from plm_core.errors import InputError, NotSupported

from .tiny_models import ARCHITECTURES, TokenCounter, call, inputs, unet

diffusers = pytest.importorskip("diffusers")


def test_wrapped_models():
    model, args = unet(), inputs()
    attention = TokenCounter(model, ".attn1.to_q")
    vae = diffusers.AutoencoderKL(block_out_channels=[8], norm_num_groups=4)
    for wrapper in (torch.nn.Sequential(model), torch.nn.ModuleList([vae, torch.nn.Sequential(model)])):
        tome.apply(wrapper, ratio=0.5)
        assert set(attention.during(lambda: call(model, *args))) == {32}
        tome.remove(wrapper)
        assert set(attention.during(lambda: call(model, *args))) == {64}
        with pytest.raises(InputError, match="not applied to this"):
            tome.remove(wrapper)
        with tome.applied(wrapper, ratio=0.5):
            assert set(attention.during(lambda: call(model, *args))) == {32}
        assert set(attention.during(lambda: call(model, *args))) == {64}


def test_settings_can_be_applied_again():
    model, args = unet(), inputs()
    expected = call(tome.apply(model, ratio=(0.5, 0.25), max_downsample=2, merge_mlp=True, seed=3), *args)
    settings = tome.settings_of(model)
    assert {"ratio": (0.5, 0.25), "max_downsample": 2, "merge_mlp": True, "kv_only": False, "seed": 3}.items() <= (
        settings.items()
    )
    assert torch.equal(call(tome.apply(tome.remove(model), **settings), *args), expected)
    with pytest.raises(InputError, match="not applied"):
        tome.settings_of(tome.remove(model))


def test_a_transformer_beside_a_diffusion_model_keeps_its_own_arguments():
    timm = pytest.importorskip("timm")
    vit = timm.models.vision_transformer.VisionTransformer(img_size=8, patch_size=2, embed_dim=8, depth=1, num_heads=1)
    both = torch.nn.ModuleDict({"unet": unet(), "vit": vit})
    tome.apply(both, r=2)
    tome.apply(both, ratio=0.5)
    tome.remove(both)
    for part in both.values():
        with pytest.raises(InputError, match="not applied"):
            tome.remove(part)


def test_warnings_point_at_the_line_of_the_user():
    model = unet()
    tome.apply(model, ratio=0.5)
    for apply in (tome.apply, tome.diffusion.apply):
        with pytest.warns(UserWarning, match="replace the old") as caught:
            apply(model, ratio=0.5)
        assert [warning.filename for warning in caught] == [__file__]
    with pytest.warns(UserWarning, match="odd batch") as caught, torch.no_grad():
        model(*inputs(3))
    assert [warning.filename for warning in caught] == [__file__]


def test_applied_twice_the_new_settings_count():
    model, args = unet(), inputs()
    tome.diffusion.apply(model, 0.25)
    attention = TokenCounter(model, ".attn1.to_q")
    with pytest.warns(UserWarning, match="new settings replace the old"):
        tome.diffusion.apply(model, 0.75, seed=0)
    assert set(attention.during(lambda: call(model, *args))) == {16}
    tome.diffusion.remove(model)
    assert set(attention.during(lambda: call(model, *args))) == {64}


BAD = {
    "ratio above": ({"ratio": 0.76}, "ratio is 0.76, not a number from 0 to 0.75"),
    "ratio of narrow windows": ({"ratio": 0.6, "sx": 1}, "from 0 to 0.5"),
    "ratio of windows of one": ({"ratio": 0.1, "sx": 1, "sy": 1}, "from 0 to 0"),
    "ratio below": ({"ratio": -0.1}, "ratio is -0.1"),
    "ratio nan": ({"ratio": float("nan")}, "ratio is nan"),
    "ratio text": ({"ratio": "0.5"}, "ratio is '0.5'"),
    "ratio bool": ({"ratio": True}, "ratio is True"),
    "ratio of three": ({"ratio": (0.1, 0.2, 0.3)}, "a tuple has two numbers"),
    "ratio of one bad": ({"ratio": (0.1, 0.9)}, "ratio is 0.9"),
    "sx": ({"sx": 0}, "sx is 0, not a positive integer"),
    "sy": ({"sy": 1.5}, "sy is 1.5, not a positive integer"),
    "max_downsample": ({"max_downsample": 0}, "max_downsample is 0"),
    "reuse_steps": ({"reuse_steps": 0}, "reuse_steps is 0"),
    "seed": ({"seed": 1.5}, "seed is 1.5"),
    "seed bool": ({"seed": True}, "seed is True"),
    "use_rand": ({"use_rand": "x"}, "use_rand is 'x', neither True nor False"),
    "share": ({"share": 1}, "share is 1, neither"),
    "ratio of a list of one": ({"ratio": [0.5]}, "a tuple has two numbers"),
    "nothing": ({"merge_attn": False}, "all off"),
    "kv_only": ({"kv_only": True, "merge_attn": False, "merge_mlp": True}, "merge_attn is off"),
}


@pytest.mark.parametrize(("options", "message"), BAD.values(), ids=BAD)
def test_bad_arguments(options, message):
    model = unet()
    with pytest.raises(InputError, match=message) as raised:
        tome.diffusion.apply(model, **options)
    assert "\n" not in str(raised.value)
    assert not any(module._forward_pre_hooks for module in model.modules())


MISTAKES = {
    "positional": ((0.5,), {}, r"UNet2DConditionModel is a diffusion model; write ratio=0\.5"),
    "positional pair": (((0.6, 0.4),), {}, r"write ratio=\(0\.6, 0\.4\)"),
    "r": ((8,), {}, "it takes ratio and the other arguments"),
    "flops": ((), {"flops": 0.5}, "it takes ratio and the other arguments"),
    "prop_attn": ((), {"prop_attn": False}, "it takes ratio and the other arguments"),
    "unmerge": ((), {"unmerge": True}, "it takes ratio and the other arguments"),
    "positions": ((), {"positions": "mean"}, "it takes ratio and the other arguments"),
    "unknown": (
        (),
        {"ratoi": 0.5},
        "ratoi: no argument of tome.apply. .*for diffusion models ratio, max_downsample, sx",
    ),
}


@pytest.mark.parametrize(("args", "options", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_in_calls_of_tome_apply(args, options, message):
    with pytest.raises(InputError, match=message):
        tome.apply(unet(), *args, **options)


def test_an_unknown_argument_for_a_transformer_gives_the_same_error():
    with pytest.raises(
        InputError,
        match=r"foo: no argument of tome\.apply\. Its arguments are r, flops, tokens, prop_attn, unmerge and pos",
    ):
        tome.apply(torch.nn.Linear(1, 1), r=3, foo=1)


def test_numpy_numbers_and_lists_are_accepted():
    np = pytest.importorskip("numpy")
    model, args = unet(), inputs()
    theirs = {"sx": np.int64(2), "sy": np.int32(2), "reuse_steps": np.int64(1), "max_downsample": np.int64(1)}
    for ratio, same in ((np.float32(0.5), 0.5), ([np.float64(0.6), 0.4], (0.6, 0.4)), (lambda p: np.float32(p), 0.5)):
        outs = []
        for options in ({"ratio": ratio, "seed": np.int64(3)} | theirs, {"ratio": same, "seed": 3}):
            tome.apply(model, **options)
            outs.append(call(model, *args))
            tome.remove(model)
        assert torch.equal(*outs)


def unet_without_attention():
    types = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    return diffusers.UNet2DModel(block_out_channels=(8,), norm_num_groups=4, add_attention=False, **types)


def test_models_without_anything_to_merge():
    with pytest.raises(NotSupported, match="UNet2DModel has no block that Token Merging knows; it knows BasicTransf"):
        tome.diffusion.apply(unet_without_attention())
    with pytest.raises(NotSupported, match="neither a diffusion model nor a pipeline with one"):
        tome.diffusion.apply(SimpleNamespace(unet=None))
    with pytest.raises(NotSupported, match="Prior"):  # its tokens are not an image
        tome.diffusion.apply(diffusers.PriorTransformer(num_attention_heads=1, attention_head_dim=8, num_layers=1))
    with pytest.raises(NotSupported, match="has none of the parts that are to be merged"):
        tome.diffusion.apply(ARCHITECTURES["SD3"].build(), merge_attn=False, merge_crossattn=True)
    with pytest.raises(NotSupported, match="kv_only on FluxTransformer2DModel"):
        tome.diffusion.apply(ARCHITECTURES["Flux"].build(), kv_only=True)
    with pytest.raises(NotSupported, match="its timesteps do not tell the progress"):
        tome.diffusion.apply(ARCHITECTURES["Stable Video"].build(), (0.5, 0.2))
    with pytest.raises(InputError, match="not applied to this UNet2DConditionModel"):
        tome.diffusion.remove(unet())


def test_a_pipeline_is_left_alone_if_one_part_is_refused():
    model = unet()
    with pytest.raises(NotSupported, match="UNet2DModel has no block"):
        tome.diffusion.apply(SimpleNamespace(unet=model, controlnet=unet_without_attention()))
    assert not any(module._forward_pre_hooks for module in model.modules())
