"""Images and boxes in, heatmaps out: shapes, boxes of every kind, other backbones, gradients, export."""

import copy
import pickle

import pytest
import timm
import torch
from torch import nn

import gazelle
import plm_core
from gazelle import decoder
from gazelle.layers import HeatmapHead, draw, sine_positions
from plm_core import InputError, NotSupported

BOX, OTHER = (0.1, 0.1, 0.45, 0.5), (0.5, 0.2, 0.9, 0.7)


@pytest.fixture(scope="module")
def images():
    torch.manual_seed(1)
    return torch.rand(2, 3, 70, 70)


@torch.no_grad()
def test_a_scene_is_encoded_once_for_all_questions(model, images):
    bboxes = [[BOX, None, OTHER], [OTHER]]
    both = model({"images": images, "bboxes": bboxes})
    features = model.encode(images)
    apart = [model.decode(features[i : i + 1], [[box]]) for i, people in enumerate(bboxes) for box in people]
    for key in ("heatmap", "inout"):
        expected = torch.cat([gaze[key][0] for gaze in apart])
        torch.testing.assert_close(torch.cat(both[key]), expected)
    assert [list(x.shape) for x in both["heatmap"]] == [[3, 10, 10], [1, 10, 10]]
    assert [list(x.shape) for x in both["inout"]] == [[3], [1]]
    assert not torch.allclose(both["heatmap"][0][0], both["heatmap"][0][1], atol=1e-4), "the head is not looked at"


@torch.no_grad()
def test_boxes_in_a_tensor_with_a_mask_are_those_in_lists(model, images):
    expected = model({"images": images, "bboxes": [[BOX, None], [OTHER]]})
    bboxes = torch.tensor([[BOX, (0, 0, 0, 0)], [OTHER, (7, 7, 7, 7)]])
    mask = torch.tensor([[True, True], [True, False]])
    gaze = model({"images": images, "bboxes": bboxes, "mask": mask})
    assert gaze["heatmap"].shape == (2, 2, 10, 10)
    for key in ("heatmap", "inout"):
        torch.testing.assert_close(gaze[key][mask], torch.cat(expected[key]))
        assert not gaze[key][1, 1].any()


@torch.no_grad()
def test_nobody_and_no_list(model, images):
    gaze = model({"images": images, "bboxes": [[], [BOX]]})
    assert gaze["heatmap"][0].shape == (0, 10, 10)
    assert gaze["inout"][0].shape == (0,)
    gaze = model({"images": images, "bboxes": [[], []]})
    assert [len(x) for x in gaze["heatmap"]] == [0, 0]
    one = model({"images": images, "bboxes": [None, [None]]})
    alone = model(images)
    torch.testing.assert_close(torch.cat(one["heatmap"]), alone)


@torch.no_grad()
def test_many_people_are_decoded_in_parts(model, images, monkeypatch):
    features = model.encode(images)
    torch.manual_seed(0)
    corners = torch.rand(11, 2) / 2
    people = torch.cat([corners, corners + 0.3], 1).tolist()
    expected = model.decode(features, [people[:7], people[7:]])
    monkeypatch.setitem(decoder.PEOPLE_AT_ONCE, "cpu", 3)
    parts = model.decode(features, [people[:7], people[7:]])
    for key in ("heatmap", "inout"):
        torch.testing.assert_close(torch.cat(parts[key]), torch.cat(expected[key]))


def test_the_head_is_two_convolutions():
    torch.manual_seed(0)
    head = HeatmapHead(16)
    tokens = torch.rand(2, 4 * 6, 16)
    expected = nn.Sequential.forward(head, tokens.mT.unflatten(2, (4, 6)))[:, 0]
    torch.testing.assert_close(draw(head(tokens), (4, 6)), expected)


def test_positions_by_hand():
    found = sine_positions(8, (2, 3))
    assert found.shape == (8, 2, 3)
    for row in range(2):
        for column in range(3):
            x, y = torch.tensor(column).float(), torch.tensor(row).float()
            expected = [
                x.sin(),
                x.cos(),
                (x / 100).sin(),
                (x / 100).cos(),
                y.sin(),
                y.cos(),
                (y / 100).sin(),
                (y / 100).cos(),
            ]
            torch.testing.assert_close(found[:, row, column], torch.stack(expected))


# --- boxes ----------------------------------------------------------------------------------------------------------


def slow_map(box, grid, size):
    """Mark cells as the original does, with slices of Python."""
    cells = torch.zeros(size, size, dtype=torch.uint8)
    x0, y0, x1, y1 = (round(side * size) for side in box)
    cells[y0:y1, x0:x1] = 1
    return cells


def test_cells_are_slices_with_sides_rounded_to_even():
    torch.manual_seed(0)
    boxes = (torch.rand(200, 4, dtype=torch.float64) * 2 - 0.5).tolist()
    boxes += [(0.1, 0.3, 0.5, 0.7), (0.3, 0.3, 0.3, 0.3), (-0.3, 0, 0.9, 1), (0.6, 0.6, 0.2, 0.2), (0.25, 0, 0.75, 1.5)]
    for size in (5, 8, 10):
        expected = torch.stack([slow_map(box, None, size) for box in boxes])
        assert torch.equal(gazelle.head_maps(boxes, (size, size)), expected)


def test_boxes_of_two_numbers_do_not_become_one_box():
    with pytest.raises(InputError, match=r"bboxes\[0\] is \(0, 0.1\); four numbers \(x0, y0, x1, y1\) or None"):
        gazelle.head_maps([(0.0, 0.1), (0.5, 0.6)], (4, 4))


def test_a_box_too_small_for_a_cell_is_filled_on_demand():
    boxes = [(0.31, 0.31, 0.33, 0.34), None, (0.0, 0.0, 1.0, 1.0), (0.99, 0.0, 1.0, 1.0)]
    plain, filled = (gazelle.head_maps(boxes, (5, 5), fill) for fill in (False, True))
    assert [int(x.sum()) for x in plain] == [0, 0, 25, 0]
    assert [int(x.sum()) for x in filled] == [1, 0, 25, 5]
    assert filled[0, 1, 1] == 1
    assert filled[3, :, 4].all()


@pytest.mark.parametrize(
    ("box", "says"),
    [
        ((0.1, 0.2, 0.3), r"bboxes\[1\]\[0\] is \(0.1, 0.2, 0.3\); four finite numbers"),
        ((0.1, 0.2, float("nan"), 0.4), "four finite numbers"),
        ("face", "four finite numbers"),
        ((10, 20, 30, 40), r"\(10, 20, 30, 40\), which looks like pixels"),
        ((0.5, 0.2, 0.1, 0.4), "x0 < x1"),
        ((0.5, 0.2, 0.5, 0.4), "x0 < x1"),
        ((1.1, 0.2, 1.5, 0.4), "outside of the picture"),
        ((-0.4, 0.2, -0.1, 0.4), "outside of the picture"),
    ],
)
def test_what_is_no_box_is_refused(model, images, box, says):
    with pytest.raises(InputError, match=says):
        model({"images": images, "bboxes": [[BOX], [box]]})


@torch.no_grad()
def test_a_box_that_reaches_out_is_clipped(model, images):
    gaze = model({"images": images, "bboxes": [[(-0.3, 0.1, 0.4, 1.2)], [(0.0, 0.1, 0.4, 1.0)]]})
    same = model({"images": images[:1], "bboxes": [[(0.0, 0.1, 0.4, 1.0)]]})
    torch.testing.assert_close(gaze["heatmap"][0], same["heatmap"][0])


def test_lists_and_tensors_that_do_not_fit(model, images):
    with pytest.raises(InputError, match="bboxes has 1 lists; one for each of the 2 images"):
        model({"images": images, "bboxes": [[BOX]]})
    with pytest.raises(InputError, match=r"bboxes is \[3, 1, 4\]; \[2, people, 4\] is expected"):
        model({"images": images, "bboxes": torch.rand(3, 1, 4)})
    with pytest.raises(InputError, match=r"images is \[3, 70, 70\]"):
        model.encode(images[0])
    with pytest.raises(InputError, match="inputs has images; images and bboxes are expected"):
        model({"images": images})
    with pytest.raises(InputError, match="mask is given with lists of boxes"):
        model({"images": images, "bboxes": [[BOX], [OTHER]], "mask": torch.ones(2, 1, dtype=torch.bool)})
    for mask, given in ((torch.ones(2, 1), r"\[2, 1\]"), (torch.ones(3), r"\[3\]"), ([[1, 1, 1]] * 2, "a list")):
        with pytest.raises(InputError, match=rf"mask is {given}; a tensor \[2, 3\]"):
            model({"images": images, "bboxes": torch.rand(2, 3, 4), "mask": mask})


# --- backbones ------------------------------------------------------------------------------------------------------

SMALL = {"dim": 16, "num_layers": 1, "inout": True}


@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("test_vit", 96, {}),
        ("vit_tiny_patch16_dinov3_qkvb", 64, {}),
        ("vit_small_patch14_reg4_dinov2", 42, {}),
        ("hiera_micro_shapes", None, {}),
        ("pe_micro_spatial", None, {}),
        ("test_convnext", 96, {}),
        ("swin_tiny_patch4_window7_224", 448, {}),
    ],
)
def test_any_backbone(name, size, options):
    with torch.device("meta") if size == 448 else torch.device("cpu"):
        if size is None:
            size = plm_core.create_model(name).pretrained_cfg["input_size"][1]
        model = gazelle.GazeLLE(name, in_size=size, **SMALL, **options).eval()
        x = torch.rand(1, 3, size, size)
        heatmaps = model(x)
    assert heatmaps.shape == (1, 64, 64)
    assert tuple(model.pos_embed.shape[1:]) == tuple(model.encode(x).shape[2:])


@torch.no_grad()
def test_positions_are_resampled_by_the_rule_of_the_backbone():
    name = "vit_small_patch14_dinov2"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        hub = gazelle.GazeLLE(name, in_size=56, **SMALL).eval()
        other = timm.create_model(name, num_classes=0, dynamic_img_size=True)
    other.load_state_dict(hub.backbone.model.state_dict())
    by_size = gazelle.GazeLLE(other, in_size=56, positions="timm", **SMALL).eval()
    x = torch.rand(1, 3, 56, 56)
    assert not torch.allclose(hub.encode(x), by_size.encode(x), atol=1e-3)
    assert hub.backbone.model.pos_embed.shape == (1, 1 + 37 * 37, 384), "stored positions stay as they are"
    torch.testing.assert_close(by_size.encode(x), other.forward_features(x)[:, 1:].mT.unflatten(2, (4, 4)))


@torch.no_grad()
def test_another_size_than_the_model_was_made_for(model):
    x = torch.rand(1, 3, 56, 98)
    gaze = model({"images": x, "bboxes": [[BOX]]})
    made = gazelle.GazeLLE(
        copy.deepcopy(model.backbone.model), True, 32, in_size=(56, 98), out_size=(10, 10), positions="hub"
    )
    made.load_state_dict(model.state_dict())
    assert made.pos_embed.shape == (32, 4, 7)
    again = made.eval()({"images": x, "bboxes": [[BOX]]})
    torch.testing.assert_close(gaze["heatmap"][0], again["heatmap"][0])


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda vit: gazelle.GazeLLE(nn.Linear(2, 2)), NotSupported, "Linear without forward_intermediates"),
        (lambda vit: gazelle.GazeLLE(vit(), in_size=60), InputError, r"in_size is \(60, 60\); multiples of 14"),
        (
            lambda vit: gazelle.GazeLLE(vit(), in_size=70, positions="bicubic"),
            InputError,
            "'bicubic' is not allowed: 'hub' and 'timm' are",
        ),
        (lambda vit: gazelle.GazeLLE("test_convnext", in_size=96, positions="hub"), NotSupported, "absolute positions"),
        (lambda vit: gazelle.GazeLLE(vit(), in_size=70, dim=20), InputError, "dim is 20; a multiple of 8"),
        (lambda vit: gazelle.GazeLLE(vit(), in_size=70, dim=16.0), InputError, "dim is 16.0; a multiple of 8"),
        (lambda vit: gazelle.GazeLLE(vit(), in_size=70, num_layers=0), InputError, "num_layers is 0"),
        (lambda vit: gazelle.GazeLLE(vit(), in_size=70, inout="false"), InputError, "inout is 'false'; True or False"),
        (lambda vit: gazelle.GazeLLE(vit(), in_size=70, frozen="no"), InputError, "frozen is 'no'; True or False"),
        (lambda vit: gazelle.GazeLLE(vit(), in_size=0), InputError, r"in_size is \(0, 0\); \(height, width\)"),
        (lambda vit: gazelle.GazeLLE(vit(), in_size=(70,)), InputError, r"in_size is \(70,\); \(height, width\)"),
        (lambda vit: gazelle.GazeLLE(vit(), in_size="70"), InputError, r"in_size is '70'; \(height, width\)"),
        (lambda vit: gazelle.GazeLLE(vit(), in_size=70, out_size=64), InputError, r"out_size is 64; \(height"),
        (lambda vit: gazelle.GazeLLE(vit(), in_size=70, out_size=(0, 3)), InputError, r"out_size is \(0, 3\)"),
        (
            lambda vit: gazelle.GazeLLE(vit(), in_size=70, pretrained=True),
            InputError,
            "pretrained cannot be given with",
        ),
        (lambda vit: gazelle.GazeLLE("hiera_tiny_224", in_size=224), NotSupported, "Hiera of timm, which has no norm"),
    ],
)
def test_what_does_not_fit_is_refused(vit, make, error, says):
    with pytest.raises(error, match=says):
        make(vit)


def test_a_backbone_whose_maps_have_other_channels_than_it_says_is_refused(vit, images):
    backbone = vit()
    backbone.feature_info[-1]["num_chs"] = 48
    with pytest.raises(NotSupported, match="feature_info has 48 channels, where its feature map has 32"):
        gazelle.GazeLLE(backbone, in_size=70).encode(images)


# --- training and export --------------------------------------------------------------------------------------------


def test_the_backbone_is_frozen(vit, images):
    model = gazelle.GazeLLE(vit(), **SMALL, in_size=70).train()
    assert not model.backbone.training
    model({"images": images, "bboxes": [[BOX], [OTHER]]})["heatmap"][0].sum().backward()
    assert all(p.grad is None for p in model.backbone.parameters())
    assert all(p.grad is not None for name, p in model.named_parameters() if name.startswith(("linear", "transformer")))
    tuned = gazelle.GazeLLE(vit(), **SMALL, in_size=70, frozen=False).train()
    assert tuned.backbone.training
    tuned({"images": images, "bboxes": [[BOX], [OTHER]]})["heatmap"][0].sum().backward()
    assert tuned.backbone.model.pos_embed.grad.abs().sum() > 0


@torch.no_grad()
def test_copies_and_pickles(model, images):
    expected = model(images)
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(again(images), expected)


@torch.no_grad()
def test_export_with_any_number_of_people_and_onnx(model, tmp_path):
    import onnxruntime

    program = gazelle.export(model)
    other = (torch.rand(3, 3, 70, 70), torch.rand(3, 5, 4).sort(2).values)
    expected = gazelle.Exportable(model)(*other)
    for found, wanted in zip(program.module()(*other), expected, strict=True):
        torch.testing.assert_close(found, wanted)
    gazelle.export_onnx(model, tmp_path / "gaze.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "gaze.onnx")
    outputs = session.run(
        ["heatmap", "inout"], dict(zip(("images", "bboxes"), (x.numpy() for x in other), strict=True))
    )
    for found, wanted in zip(outputs, expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(found), wanted, atol=1e-5, rtol=0)


# --- transforms -----------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("name", ["tome", "hydra", "packed"])
def test_transforms_reach_the_backbone(vit, images, name):
    torch.manual_seed(0)
    model = gazelle.GazeLLE(vit(init_values=1.0), **SMALL, in_size=70, out_size=(10, 10), positions="hub").eval()
    expected = model.encode(images)
    options = {"tome": {"r": 4}, "hydra": {"layers": 1}, "packed": {}}[name]
    plm_core.apply(model, name, **options)
    changed = model.encode(images)
    assert changed.shape == expected.shape
    assert torch.allclose(changed, expected, atol=1e-5) == (name == "packed")
    assert type(model.transformer[0].attn).__name__ == "Attention", "the decoder is left as it is"
    plm_core.remove(model, name)
    torch.testing.assert_close(model.encode(images), expected)
