"""The parts of detectors, compared with torchvision where the two agree, and with geometry where they do not."""

import random
from collections import OrderedDict

import pytest
import torch
from timm.layers import LayerNorm2d
from timm.optim import param_groups_layer_decay
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign, box_iou

import hiera
from hiera.configs import MICRO_DETECTOR
from hiera.detection import Anchors, detector, micro_detector
from hiera.detection.cascade import CascadeRoIHeads, ClassAgnosticPredictor, scale_gradient
from hiera.detection.regions import RegionPool, RegionTransform, cut_masks, paste_masks
from plm_core import InputError, shapes

SMALL = {
    "channels": 16,
    "img_size": 64,
    "anchors": (8, 16, 32, 48, 64),
    "canonical": 56,
    "rpn_samples": 32,
    "rpn_before_nms": (50, 50),
    "rpn_after_nms": (30, 30),
    "box_convs": (16,),
    "box_fc": (32,),
    "box_samples": 32,
    "mask_convs": (16,),
}


def trunk(**kwargs):
    return hiera.HieraDet(**{"embed_dim": 8, "stages": (1, 1, 2, 1), "global_att_blocks": (3,), **kwargs})


def small(backbone=None, num_classes=3, **settings):
    torch.manual_seed(0)
    return detector(backbone or trunk(), num_classes, **{**SMALL, **settings})


def scene(size=64):
    """Return an image and a target with two objects."""
    torch.manual_seed(1)
    masks = torch.zeros(2, size, size, dtype=torch.uint8)
    masks[0, 4:20, 6:30] = 1
    masks[1, 30:60, 20:44] = 1
    boxes = torch.tensor([[6.0, 4, 30, 20], [20, 30, 44, 60]])
    return torch.rand(3, size, size), {"boxes": boxes, "labels": torch.tensor([1, 3]), "masks": masks}


def empty(target):
    return {name: value[:0] for name, value in target.items()}


@pytest.mark.parametrize("cascade", [False, True])
@pytest.mark.parametrize("masks", [False, True])
def test_losses_reach_every_parameter(cascade, masks):
    model = small(cascade=cascade, masks=masks).train()
    image, target = scene()
    losses = model([image, image[:, :40, :50]], [target, empty({**target, "masks": target["masks"][:, :40, :50]})])
    box = {f"loss_{kind}_{i}" for kind in ("classifier", "box_reg") for i in (1, 2, 3)}
    expected = box if cascade else {"loss_classifier", "loss_box_reg"}
    expected |= {"loss_objectness", "loss_rpn_box_reg"} | ({"loss_mask"} if masks else set())
    assert set(losses) == expected
    sum(losses.values()).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert without == []


@pytest.mark.parametrize("cascade", [False, True])
def test_images_without_objects_train(cascade):
    model = small(cascade=cascade).train()
    image, target = scene()
    losses = model([image], [empty(target)])
    assert all(loss.isfinite() for loss in losses.values())
    assert losses["loss_mask"] == 0


def test_resized_images_boxes_and_masks_stay_in_one_place():
    """Compare the centre of an object in the image, its mask and its box, at many scales in float64."""
    rng, shifts = random.Random(0), []

    def centre(pixels):
        pixels = pixels.double()
        return [
            float((pixels.sum(axis) * (torch.arange(pixels.shape[1 - axis]) + 0.5)).sum() / pixels.sum())
            for axis in (0, 1)
        ]

    for old in range(40, 200, 7):
        x0, y0 = rng.randrange(old // 2), rng.randrange(old // 3)
        box = torch.tensor([[x0, y0, x0 + old // 3, y0 + old // 4]]).float()
        mask = torch.zeros(1, old - old // 5, old, dtype=torch.uint8)
        mask[0, y0 : y0 + old // 4, x0 : x0 + old // 3] = 1
        transform = RegionTransform(96, 96, [0, 0, 0], [1, 1, 1], 32)
        images, [target] = transform([mask.float().expand(3, -1, -1)], [{"boxes": box, "masks": mask}])
        found = target["masks"][0]
        torch.testing.assert_close(found, images.tensors[0, 0, : found.shape[0], : found.shape[1]], atol=1e-6, rtol=0)
        height, width = (size / side for size, side in zip(found.shape, mask.shape[1:], strict=True))
        exact = box[0].double() * torch.tensor([width, height, width, height])
        torch.testing.assert_close(target["boxes"][0].double(), exact, atol=1e-4, rtol=0)
        if x0 and y0:  # at the border the interpolation repeats it
            shifts.append(torch.tensor(centre(found)) - (exact[:2] + exact[2:]) / 2)
    assert torch.stack(shifts).abs().max() < 0.3
    assert torch.stack(shifts).mean(0).abs().max() < 0.04


def test_an_object_without_a_mask_trains_boxes_only():
    """Its mask is 0 everywhere. Of two such objects, none reaches the mask branch."""
    image, target = scene()
    model = small().train()

    def mask_loss(masks):
        torch.manual_seed(0)
        return model([image], [{**target, "masks": masks}])

    both, one = mask_loss(target["masks"]), mask_loss(target["masks"] * torch.tensor([1, 0])[:, None, None].byte())
    none = mask_loss(torch.zeros_like(target["masks"]))
    assert none["loss_mask"] == 0
    assert 0 < one["loss_mask"] != both["loss_mask"] > 0
    assert both["loss_classifier"] == one["loss_classifier"] == none["loss_classifier"] > 0
    model.drop_masks()
    alone = model([image], [{name: target[name] for name in ("boxes", "labels")}])
    assert "loss_mask" not in alone
    assert not any("mask" in name for name in model.state_dict())
    assert "masks" not in model.eval()([image])[0]


@pytest.mark.parametrize("cascade", [False, True])
@torch.no_grad()
def test_detections_are_in_pixels_of_the_input_image(cascade):
    model = small(cascade=cascade, score_threshold=0.0).eval()
    results = model([torch.rand(3, 30, 41), torch.rand(3, 100, 70)])
    for result, (height, width) in zip(results, [(30, 41), (100, 70)], strict=True):
        n = len(result["boxes"])
        assert n > 0
        assert result["masks"].shape == (n, 1, height, width)
        assert result["scores"].diff().le(0).all()
        assert set(result["labels"].tolist()) <= {1, 2, 3}
        assert (result["boxes"] >= 0).all()
        assert (result["boxes"] <= torch.tensor([width, height, width, height]) + 1e-3).all()
        assert result["boxes"][:, 2].max() > 0.9 * width  # not in pixels of the resized image
    assert model([torch.rand(3, 64, 64)])[0]["boxes"].shape[1] == 4


@pytest.mark.parametrize("make", [micro_detector, lambda: small(trunk(window_spec=(8, 4, 14, 7)))])
@pytest.mark.parametrize("size", [(640, 480), (480, 640), (500, 375), (150, 120), (90, 33), (17, 64)])
@torch.no_grad()
def test_images_of_any_size_are_padded_to_one_that_the_trunk_takes(make, size):
    model = make().eval()
    [result] = model([torch.rand(3, *size)])
    assert result["masks"].shape[2:] == size
    padded = model.transform([torch.rand(3, *size)])[0].tensors.shape[2:]
    assert max(padded) == model.transform.max_size
    assert all(side % model.backbone.trunk.multiple == 0 for side in padded)


@torch.no_grad()
def test_images_of_the_right_size_are_only_normalised():
    model = small().eval()
    image = torch.rand(3, 64, 64)
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    images, _ = model.transform([image])
    expected = (image * 255 - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(images.tensors[0], expected)
    assert model.transform([image[:, :40]])[0].tensors.shape[-2:] == (64, 64)  # padded


@pytest.mark.parametrize("cascade", [False, True])
@torch.no_grad()
def test_half_precision_does_not_round_boxes(cascade):
    """Under autocast, zero deltas leave anchors where they are, also at coordinates that bfloat16 cannot represent."""
    model = small(cascade=cascade, img_size=512, anchors=(6, 10, 19, 37, 75), score_threshold=0.0, nms=0.99).eval()
    deltas = [model.rpn.head.bbox_pred, *(m for n, m in model.roi_heads.named_modules() if n.endswith("bbox_pred"))]
    for layer in deltas:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    with torch.autocast("cpu", torch.bfloat16):
        result = model([torch.rand(3, 512, 512)])[0]
    assert result["boxes"].dtype == torch.float32
    middle = (result["boxes"][:, 2:] - result["boxes"][:, :2]).amax(1) < 12
    inside = middle & (result["boxes"] > 300).all(1) & (result["boxes"] < 500).all(1)
    boxes = result["boxes"][inside]
    anchors = torch.cat(model.rpn.anchor_generator.cell_anchors[:2]) % 4
    assert len(boxes)
    for row in boxes:
        assert (row % 4 - anchors).abs().amax(1).min() < 1e-2


@torch.no_grad()
def test_it_is_torchvisions_detector_except_for_pooling():
    """With our other parts in torchvision's detector, and its pooling in ours, losses and detections are the same."""
    ours = small(masks=False, score_threshold=0.0)
    pool = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 0, canonical_scale=56)
    ours.roi_heads.box_roi_pool = pool
    theirs = FasterRCNN(
        ours.backbone,
        min_size=64,
        max_size=64,
        rpn_anchor_generator=AnchorGenerator(((8,), (16,), (32,), (48,), (64,)), ((0.5, 1.0, 2.0),) * 5),
        rpn_head=ours.rpn.head,
        rpn_pre_nms_top_n_train=50,
        rpn_pre_nms_top_n_test=50,
        rpn_post_nms_top_n_train=30,
        rpn_post_nms_top_n_test=30,
        rpn_batch_size_per_image=32,
        box_roi_pool=pool,
        box_head=ours.roi_heads.box_head,
        box_predictor=ours.roi_heads.box_predictor,
        box_batch_size_per_image=32,
        box_score_thresh=0.0,
    )
    image, target = scene()
    for model in (ours, theirs):
        model.train()
    torch.manual_seed(0)
    a = ours([image], [target])
    torch.manual_seed(0)
    b = theirs([image], [target])
    assert set(a) == set(b)
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=1e-4)
    a, b = ours.eval()([image])[0], theirs.eval()([image])[0]
    for name in ("boxes", "labels", "scores"):
        torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=1e-3)


def ramp(side, stride):
    """Return a map whose values are the coordinates of its cells' centres: x in one channel, y in the other."""
    centre = (torch.arange(side / stride) + 0.5) * stride
    return torch.stack([centre.expand(len(centre), -1), centre[:, None].expand(-1, len(centre))])[None]


def test_pooling_keeps_coordinates():
    """On a ramp, the value of a bin is the coordinate of its centre, at every level."""
    strides = (4, 8, 16, 32)
    features = {str(i): ramp(256, s) for i, s in enumerate(strides)}
    boxes = torch.tensor([[40.0, 40, 52, 60], [50, 70, 81, 95], [60, 60, 130, 118], [50, 40, 190, 200]])
    pool = RegionPool(strides, 7, canonical=56)
    got = pool(features, [boxes])
    bins = (torch.arange(7) + 0.5) / 7
    x = boxes[:, 0:1] + bins * (boxes[:, 2:3] - boxes[:, 0:1])
    y = boxes[:, 1:2] + bins * (boxes[:, 3:4] - boxes[:, 1:2])
    torch.testing.assert_close(got[:, 0], x[:, None].expand(-1, 7, -1))
    torch.testing.assert_close(got[:, 1], y[:, :, None].expand(-1, -1, 7))


def test_pooling_takes_the_level_that_fits():
    """Levels are chosen as in torchvision. Each level has one constant value, which shows the level that was used."""
    features = OrderedDict((str(i), torch.full((2, 1, 64 // 2**i, 64 // 2**i), float(i))) for i in range(4))
    side = torch.tensor([5.0, 27.9, 28.1, 55.9, 56.1, 111.9, 112.1, 200.0])
    boxes = torch.stack([torch.zeros(8), torch.zeros(8), side, side], 1)
    got = RegionPool((4, 8, 16, 32), 2, canonical=56)(features, [boxes[:3], boxes[3:]])
    assert got[:, 0, 0, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    theirs = MultiScaleRoIAlign(["0", "1", "2", "3"], 2, 2, canonical_scale=56)
    assert torch.equal(got, theirs(features, [boxes[:3], boxes[3:]], [(256, 256)] * 2))


def test_masks_are_pasted_where_they_were_cut():
    """The masks of the shapes world, cut and pasted at a good resolution, are unchanged."""
    for s in shapes.Images("heldout", size=96, count=10):
        masks = torch.stack([torch.from_numpy(o.mask) for o in s.objects])
        boxes = torch.tensor([o.box for o in s.objects])
        back = paste_masks((cut_masks(masks, boxes, 56) > 0.5).float()[:, None], boxes, (96, 96))[:, 0] > 0.5
        iou = (back & masks).sum((1, 2)) / (back | masks).sum((1, 2))
        assert iou.min() > 0.93
        shift = masks.int().argmax(2).float().mean() - back.int().argmax(2).float().mean()
        assert abs(shift) < 0.1


def test_anchors_sit_at_the_true_strides():
    """Checked at a size whose pooled level is rounded up, where torchvision's anchors drift out of their cells."""
    anchors = Anchors((4, 8), ((8,), (16,)), (1.0,))
    images = type("ImageList", (), {"image_sizes": [(12, 12)], "tensors": torch.zeros(1, 3, 12, 12)})
    got = anchors(images, [torch.zeros(1, 1, 3, 3), torch.zeros(1, 1, 2, 2)])[0]
    centres = (got[:, :2] + got[:, 2:]) / 2
    assert centres[:9].tolist() == [[x, y] for y in (0, 4, 8) for x in (0, 4, 8)]
    assert centres[9:].tolist() == [[x, y] for y in (0, 8) for x in (0, 8)]


@torch.no_grad()
def test_pyramid_of_hieradet():
    model = small().eval()
    x = torch.rand(1, 3, 96, 64)
    levels = model.backbone(x)
    assert [tuple(m.shape) for m in levels.values()] == [
        (1, 16, -(-96 // s), -(-64 // s)) for s in model.backbone.strides
    ]
    assert model.backbone.strides == [4, 8, 16, 32, 64]
    bare = FeaturePyramidNetwork(model.backbone.trunk.channels, 16, norm_layer=LayerNorm2d)
    bare.load_state_dict(model.backbone.fpn.state_dict())
    maps = bare(OrderedDict((str(i), m) for i, m in enumerate(model.backbone.trunk(x))))
    for name, level in maps.items():
        torch.testing.assert_close(levels[name], level)
    assert torch.equal(levels["pool"], levels["3"][:, :, ::2, ::2])


@pytest.mark.parametrize("cascade", [False, True])
def test_on_a_vitdet(cascade):
    vit = hiera.ViTDet(img_size=64, embed_dim=32, depth=2, num_heads=2, pretrain_grid=2, global_att_blocks=(1,))
    model = small(vit, cascade=cascade)
    levels = model.backbone(torch.rand(1, 3, 96, 64))
    assert [tuple(m.shape[1:]) for m in levels.values()] == [(16, -(-96 // s), 64 // s) for s in (4, 8, 16, 32, 64)]
    image, target = scene()
    sum(model.train()([image], [target]).values()).backward()
    assert all(p.grad is not None for p in model.parameters())


@torch.no_grad()
def test_the_papers_settings():
    with torch.device("meta"):
        model = detector(hiera.HieraDet(device="meta"), 80, cascade=True)
    convs = [tuple(m.weight.shape) for m in model.roi_heads.box_head[2].modules() if isinstance(m, nn.Conv2d)]
    assert convs == [(256, 256, 3, 3)] * 4
    assert [m.weight.shape for m in model.roi_heads.box_head[0] if isinstance(m, nn.Linear)] == [(1024, 256 * 49)]
    assert len(model.rpn.head.conv) == 2
    assert model.rpn.anchor_generator.sizes == ((32,), (64,), (128,), (256,), (512,))
    assert model.rpn.anchor_generator.strides == [4, 8, 16, 32, 64]
    assert model.roi_heads.mask_predictor.mask_fcn_logits.weight.shape == (81, 256, 1, 1)
    assert (model.roi_heads.box_roi_pool.size, model.roi_heads.mask_roi_pool.size) == (7, 14)
    assert [c.weights for c in model.roi_heads.coders] == [(10, 10, 5, 5), (20, 20, 10, 10), (30, 30, 15, 15)]
    norms = [m for m in model.modules() if isinstance(m, LayerNorm2d)]
    assert len(norms) == 8 + 3 * 4 + 4  # pyramid, box heads, mask head


class Perfect(nn.Module):
    """A box head that reads the place of its region off the ramp maps, and moves the region onto its object."""

    def __init__(self, coder, objects, labels, share):
        super().__init__()
        self.coder, self.objects, self.labels, self.share = coder, objects, labels, share
        self.regions = []

    def forward(self, pooled):
        x, y = pooled[:, 0, 0], pooled[:, 1, :, 0]
        half = (x[:, 1] - x[:, 0]) / 2, (y[:, 1] - y[:, 0]) / 2
        boxes = torch.stack([x[:, 0] - half[0], y[:, 0] - half[1], x[:, -1] + half[0], y[:, -1] + half[1]], 1)
        self.regions.append(boxes)
        index = box_iou(boxes, self.objects).max(1).indices
        goal = boxes + self.share * (self.objects[index] - boxes)
        logits = 5 * nn.functional.one_hot(self.labels[index], 4).float()
        return logits, self.coder.encode([goal], [boxes])[0]


def cascade_of(shares, **kwargs):
    objects, labels = torch.tensor([[40.0, 40, 80, 90], [120, 100, 200, 190]]), torch.tensor([1, 3])
    heads = CascadeRoIHeads(
        [(nn.Identity(), nn.Identity()) for _ in shares],
        box_roi_pool=RegionPool((4,), 7, 56),
        batch_size_per_image=8,
        positive_fraction=0.5,
        score_thresh=0.05,
        nms_thresh=0.5,
        detections_per_img=10,
        **kwargs,
    )
    stages = [Perfect(coder, objects, labels, share) for coder, share in zip(heads.coders, shares, strict=True)]
    heads.box_predictor = nn.ModuleList(stages)
    return heads, stages, {"boxes": objects, "labels": labels}


def test_each_stage_starts_where_the_last_one_ended():
    """Each stage moves a region half of the way to its object, so the detection has one eighth of the distance left."""
    heads, stages, target = cascade_of((0.5, 0.5, 0.5))
    start = target["boxes"] + 8
    result, losses = heads.eval()({"0": ramp(256, 4)}, [start], [(256, 256)])
    assert losses == {}
    for i, stage in enumerate(stages):
        torch.testing.assert_close(stage.regions[0], target["boxes"] + 8 / 2**i, atol=1e-3, rtol=0)
    boxes = result[0]["boxes"][result[0]["labels"].argsort()]
    torch.testing.assert_close(boxes, target["boxes"] + 1, atol=1e-3, rtol=0)
    assert sorted(result[0]["labels"].tolist()) == [1, 3]


def test_later_stages_match_at_their_own_overlap():
    """A region that has IoU 0.55 with its object and is never moved counts as an object in the first stage only."""
    heads, _, target = cascade_of((0.0, 0.0, 0.0))
    box = target["boxes"][0]
    width = float(box[2] - box[0])
    part = torch.stack([box[0], box[1], box[0] + 0.55 * width, box[3]])[None]
    assert [int(heads._match(stage, part, target)[0]) for stage in range(3)] == [1, 0, 0]
    torch.testing.assert_close(heads._match(2, part, target)[1][0], box)


def test_training_appends_the_objects_in_the_first_stage_only():
    heads, stages, target = cascade_of((1.0, 0.0, 0.0))
    heads.train()
    torch.manual_seed(0)
    far = torch.tensor([[45.0, 45, 84, 92], [10, 10, 20, 20]])
    losses = heads({"0": ramp(256, 4)}, [far], [(256, 256)], [target])[1]
    assert [len(stage.regions[0]) for stage in stages] == [4, 4, 4]  # two proposals and, added once, two objects
    # the first stage puts all regions onto objects, so the others have nothing to move
    assert losses["loss_box_reg_1"] == pytest.approx(0, abs=1e-6)
    assert losses["loss_box_reg_2"] == pytest.approx(0, abs=1e-6)
    assert losses["loss_classifier_1"] > losses["loss_classifier_2"]  # the far region is background in the first stage


def test_no_stage_learns_from_the_boxes_that_it_hands_on():
    """The losses of later stages have a gradient for their own predictors only, not through the boxes they start at."""
    model = small(cascade=True, masks=False).train()
    image, target = scene()
    losses = model([image], [{name: target[name] for name in ("boxes", "labels")}])
    later = losses["loss_box_reg_2"] + losses["loss_box_reg_3"] + losses["loss_classifier_3"]
    first, second, third = ([*p.parameters()] for p in model.roi_heads.box_predictor)
    assert all(g is None for g in torch.autograd.grad(later, first, retain_graph=True, allow_unused=True))
    after = torch.autograd.grad(losses["loss_box_reg_3"], second, retain_graph=True, allow_unused=True)
    assert all(g is None for g in after)
    assert torch.autograd.grad(losses["loss_classifier_3"], third[0])[0].abs().sum() > 0


def test_scores_are_the_mean_over_stages():
    heads, stages, target = cascade_of((0.0, 0.0, 0.0))
    stages[1].labels = torch.tensor([2, 3])
    result = heads.eval()({"0": ramp(256, 4)}, [target["boxes"][:1]], [(256, 256)])[0][0]
    high, low = torch.tensor([5.0, 0, 0, 0]).softmax(0)[:2]
    assert result["labels"].tolist() == [1, 2]
    torch.testing.assert_close(result["scores"], torch.stack([(2 * high + low) / 3, (high + 2 * low) / 3]))


def test_the_stages_share_the_gradient():
    x = torch.ones(3, requires_grad=True)
    y = scale_gradient(x, 1 / 3)
    torch.testing.assert_close(y, x)
    y.sum().backward()
    torch.testing.assert_close(x.grad, torch.full((3,), 1 / 3))
    logits, deltas = ClassAgnosticPredictor(6, 3)(torch.rand(5, 6))
    assert (logits.shape, deltas.shape) == ((5, 4), (5, 4))


def test_micro_detector_fits_in_two_megabytes():
    model = micro_detector()
    parameters = sum(p.numel() for p in model.parameters())
    assert parameters == 432_189
    assert parameters * 4 < 2e6
    assert model.transform.min_size == (MICRO_DETECTOR["img_size"],)
    exempt = model.no_weight_decay()
    assert exempt == {"backbone.trunk.pos_embed", "backbone.trunk.pos_embed_window"}
    assert exempt <= {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize(
    "backbone",
    [
        trunk(rel_pos_img_size=64),
        hiera.ViTDet(img_size=64, embed_dim=32, depth=5, num_heads=2, pretrain_grid=2, global_att_blocks=(3,)),
    ],
)
def test_layer_wise_rates(backbone):
    """Layers are the embeddings and five blocks. Parts that are not pretrained have the full rate."""
    model = small(backbone)
    groups = param_groups_layer_decay(model, layer_decay=0.5)
    scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    expected = {"trunk.pos_embed": 0.5**6, "trunk.patch_embed": 0.5**6, "rel_pos": 1.0}
    expected |= {f"trunk.blocks.{i}.attn.qkv": 0.5 ** (5 - i) for i in range(5)}
    for name, p in model.named_parameters():
        rates = [rate for part, rate in expected.items() if part in name] or [1.0] * ("trunk" not in name)
        assert all(scale[id(p)] == pytest.approx(rate) for rate in rates), name


def bad(**changes):
    image, target = scene()
    return lambda: small().train()([image], [{**target, **changes}])


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: small()([scene()[0]]), "targets must be one dict per image"),
        (lambda: small()([scene()[0]], []), "not 0 of them"),
        (lambda: small().eval()([torch.rand(3, 8, 8), torch.full((3, 8, 8), float("nan"))]), "images[1] has NaN"),
        (lambda: small().eval()([torch.zeros(3, 8, 8, dtype=torch.uint8)]), "images[0] is torch.uint8 [3, 8, 8]"),
        (lambda: small().eval()([torch.rand(1, 8, 8)]), "images[0] is torch.float32 [1, 8, 8]"),
        (bad(boxes=torch.tensor([[6.0, 4, 6, 20], [20, 30, 44, 60]])), "targets[0] box 0 is [6.0, 4.0, 6.0, 20.0]"),
        (bad(boxes=torch.tensor([[6.0, 4, 9, 20], [20, 30, float("inf"), 60]])), "targets[0] box 1 is"),
        (bad(boxes=torch.rand(3, 4)), "boxes torch.float32 [3, 4] and labels torch.int64 [2]; [N, 4]"),
        (bad(labels=torch.tensor([0, 3])), "labels from 0 to 3; 1 to 3 are allowed"),
        (bad(labels=torch.tensor([1, 4])), "labels from 1 to 4; 1 to 3 are allowed"),
        (bad(masks=torch.zeros(2, 32, 32)), "masks [2, 32, 32]; [2, 64, 64] is expected"),
        (bad(masks=255 * scene()[1]["masks"]), "masks with other values than 0 and 1, such as 255"),
        (bad(masks=0.5 * scene()[1]["masks"]), "masks with other values than 0 and 1, such as 0.5"),
        (bad(boxes=scene()[1]["boxes"] + 50), "box 0 is [56.0, 54.0, 80.0, 70.0], outside of its image of 64 x 64"),
        (bad(boxes=scene()[1]["boxes"] - 8), "box 0 is [-2.0, -4.0, 22.0, 12.0], outside of its image"),
        (bad(boxes=scene()[1]["boxes"] / 64), "has boxes from 0 to 1; pixels are expected"),
        (bad(labels=torch.tensor([1, 3], dtype=torch.int32)), "labels of torch.int32; torch.int64 is expected"),
        (bad(labels=torch.tensor([1.0, 3.0])), "labels of torch.float32; torch.int64 is expected"),
        (lambda: small().eval()([255 * torch.rand(3, 8, 8)]), "images[0] has levels from"),
        (lambda: small().eval()([4 * torch.rand(3, 8, 8) - 2]), "0 to 1 are expected, not normalised"),
        (lambda: small().eval()([]), "images must be a list of tensors [3, height, width], not a list"),
        (lambda: small().train()([scene()[0]], [{"boxes": torch.zeros(0, 4)}]), "targets[0] lacks labels, masks"),
        (lambda: small(num_classes=0), "num_classes 0 is not allowed"),
        (lambda: small(anchors=(8, 16)), "anchors has 2 sizes; the pyramid has 5 levels"),
        (lambda: small(hiera.ViTDet(patch_size=14, depth=1, device="meta")), "patch_size 14"),
        (lambda: CascadeRoIHeads([], (0.5,)), "0 stages, 1 ious"),
    ],
)
def test_bad_input_is_named(call, said):
    with pytest.raises(InputError) as e:
        call()
    assert said in str(e.value)
    assert "\n" not in str(e.value)
