"""The model gives the outputs of the original."""

import pytest
import torch

import gazelle

MODELS = ("model_inout_multi", "model_noinout_nobox", "model_posinterp_hub", "model_resize_up_rect")


def boxes_of(case):
    """Return the boxes of each image, with None for a person without one."""
    given = case.inputs["bbox_given"].bool().tolist()
    rows = iter(box if known else None for box, known in zip(case.inputs["bboxes"].tolist(), given, strict=True))
    return [[next(rows) for _ in range(count)] for count in case.inputs["people_per_image"].tolist()]


def loaded(case, vit):
    config = dict(case.config)
    eyes = config.pop("backbone")
    backbone = vit(eyes["pos_grid"], eyes["patch"], eyes["dim"], eyes["depth"], eyes["heads"])
    model = gazelle.GazeLLE(backbone, positions=eyes["mode"], **{k: _tuple(v) for k, v in config.items()}).eval()
    model.load_state_dict(case.weights)
    return model


def _tuple(value):
    return tuple(value) if isinstance(value, list) else value


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_outputs(golden, vit, name):
    case = golden(name)
    model = loaded(case, vit)
    images, bboxes = case.inputs["images"], boxes_of(case)
    features = model.encode(images)
    torch.testing.assert_close(features, case.outputs["backbone_features"], atol=1e-5, rtol=0)
    everyone = [box for people in bboxes for box in people]
    maps = gazelle.head_maps(everyone, tuple(features.shape[2:]))
    assert maps.dtype == torch.uint8
    assert torch.equal(maps, case.outputs["head_maps"].to(torch.uint8))
    gaze = model({"images": images, "bboxes": bboxes})
    assert [len(heatmap) for heatmap in gaze["heatmap"]] == case.inputs["people_per_image"].tolist()
    torch.testing.assert_close(torch.cat(gaze["heatmap"]), case.outputs["heatmap"], atol=5e-6, rtol=0)
    if case.config["inout"]:
        torch.testing.assert_close(torch.cat(gaze["inout"]), case.outputs["inout"], atol=5e-6, rtol=0)
    else:
        assert gaze["inout"] is None


def test_norms_of_the_decoder_add_what_the_weights_were_trained_with(model):
    norms = [module.eps for block in model.transformer for module in (block.norm1, block.norm2)]
    assert norms == [1e-5] * 6, "timm's default has become 1e-6, which no output shows"
