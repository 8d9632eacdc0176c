"""The towers give the outputs of the original, at its own size and at others."""

import pytest
import torch
from torch import nn

import pe_encoder
from pe_encoder.rope import rotate, rotations
from plm_core import weights

VISION = ("core_cls_attnpool", "core_cls_otherres", "core_nocls_hd12", "lang_layerscale")
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def loaded(golden, name):
    case = golden(name)
    config = {key: value for key, value in case.config.items() if key != "kind"}
    model = (pe_encoder.CLIP if case.config["kind"] == "clip" else pe_encoder.VisionTower)(**config)
    weights.load(model, case.weights)
    return model.eval(), case


def features(model, x, what):
    if what == "forward":
        return model(x)
    if what == "features_norm_nocls":
        return model.forward_features(x, norm=True, strip_cls_token=True)
    if what == "features_prenorm":
        return model.forward_features(x)
    return model.forward_features(x, layer_idx=int(what.removeprefix("features_layer_")))


@pytest.mark.parametrize("name", VISION)
@torch.no_grad()
def test_vision_tower(golden, name):
    model, case = loaded(golden, name)
    for key, expected in case.outputs.items():
        image, what = key.split(".")
        torch.testing.assert_close(features(model, case.inputs[image], what), expected, **CLOSE, msg=key)


@torch.no_grad()
def test_an_epsilon_of_timms_would_fail(golden):
    model, case = loaded(golden, "core_cls_attnpool")
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-6
    output = model.forward_features(case.inputs["native"])
    assert not torch.allclose(output, case.outputs["native.features_prenorm"], **CLOSE)


@torch.no_grad()
def test_clip(golden):
    model, case = loaded(golden, "clip_tiny")
    image, text, video = (case.inputs[name] for name in ("image", "text", "video"))
    image_features, text_features, scale = model(image, text)
    ours = {
        "image_features": image_features,
        "text_features": text_features,
        "logit_scale": scale,
        "image_raw": model.encode_image(image),
        "text_raw": model.encode_text(text),
        "video_raw_mean": model.encode_video(video),
        "video_normalized_frames_mean": model.encode_video(video, normalize=True),
        "text_short_context": model.encode_text(text[:2, :8]),
    }
    assert ours.keys() == case.outputs.keys()
    for name, expected in case.outputs.items():
        torch.testing.assert_close(ours[name], expected, **CLOSE, msg=name)


def test_rotary_positions(golden):
    case = golden("rope2d")
    for name, outputs in {"a": ("q", "k"), "b": ("q_nocls",)}.items():
        config = case.config[name]
        table = rotations(config["grid_hw"], config["head_dim"], config["cls"])
        angles = case.outputs["angles_cls_3x5" if config["cls"] else "angles_nocls_4x3"][:, ::2]
        torch.testing.assert_close(table.unflatten(-1, (-1, 2))[..., 0], angles.cos(), **CLOSE)
        torch.testing.assert_close(table.unflatten(-1, (-1, 2))[..., 1], angles.sin(), **CLOSE)
        for output in outputs:
            torch.testing.assert_close(rotate(case.inputs[output], table), case.outputs[output], **CLOSE)
