"""COCO data, augmentation and score. The shapes world and a folder written from it hold the same data."""

import json
import logging
import random

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import tv_tensors

import plm_core
from hiera.coco import CocoDetection, LargeScaleJitter, ShapesDetection, collate, evaluate, loss, write_coco
from hiera.configs import DETECTION_MEAN
from hiera.detection import micro_detector
from hiera.pictures import detections as draw
from plm_core import InputError, shapes

MEAN = torch.tensor(DETECTION_MEAN)[:, None, None]


@pytest.fixture(scope="module")
def world():
    return ShapesDetection("heldout", size=64, count=6, objects=(2, 4))


@pytest.fixture(scope="module")
def folder(world, tmp_path_factory):
    path = tmp_path_factory.mktemp("coco")
    write_coco(world, path)
    return path


def open_folder(folder, **kwargs):
    return CocoDetection(folder / "images", folder / "instances.json", **kwargs)


def same(a, b):
    assert torch.equal(a[0], b[0])
    assert a[1].keys() == b[1].keys()
    for name, value in a[1].items():
        assert torch.equal(value, b[1][name]) if isinstance(value, torch.Tensor) else value == b[1][name]


def test_a_folder_holds_the_world_it_was_written_from(world, folder):
    data = open_folder(folder)
    assert data.names == world.names == dict(enumerate(shapes.SHAPES, 1))
    assert len(data) == len(world)
    for i in range(len(world)):
        same(data[i], world[i])
    image, target = data[0]
    scene = shapes.Images("heldout", size=64, count=6, objects=(2, 4))[0]
    assert torch.equal(image, torch.from_numpy(scene.image).permute(2, 0, 1) / 255)
    assert target["boxes"].tolist() == [list(o.box) for o in scene.objects]
    assert [world.names[n] for n in target["labels"].tolist()] == [o.shape for o in scene.objects]
    assert np.array_equal(target["masks"], np.stack([o.mask for o in scene.objects]))
    assert isinstance(image, tv_tensors.Image)
    assert isinstance(target["boxes"], tv_tensors.BoundingBoxes)


def test_writing_is_all_or_nothing(world, tmp_path):
    class Broken(ShapesDetection):
        def scene(self, index):
            if index == 3 and (tmp_path / "images").exists():
                raise KeyboardInterrupt
            return super().scene(index)

    with pytest.raises(KeyboardInterrupt):
        write_coco(Broken("heldout", size=64, count=6), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["images"]
    assert sorted(p.name for p in (tmp_path / "images").iterdir()) == [f"{i:012d}.png" for i in range(3)]


def write(folder, annotations=(), images=None, categories=None, **more):
    """Write a folder with one image of 40 x 30 pixels and two categories with gaps between their ids."""
    (folder / "images").mkdir(exist_ok=True)
    Image.new("RGB", (40, 30), (255, 0, 51)).save(folder / "images" / "a.png")
    content = {
        "images": images or [{"id": 7, "file_name": "a.png", "width": 40, "height": 30}],
        "categories": categories or [{"id": 90, "name": "dog"}, {"id": 3, "name": "cat"}],
        "annotations": list(annotations),
        **more,
    }
    (folder / "instances.json").write_text(json.dumps(content))
    return folder


def annotation(bbox, number=1, category=90, **more):
    square = [2, 2, 12, 2, 12, 10, 2, 10]
    return {"id": number, "image_id": 7, "category_id": category, "bbox": bbox, "segmentation": [square], **more}


def test_labels_are_contiguous_by_category_id_and_boxes_are_clipped(tmp_path):
    rows = [
        annotation([2, 2, 10, 8], 1, 90),
        annotation([30, -5, 20, 20], 2, 3),
        annotation([0, 0, 40, 30], 3, 3, iscrowd=1),
    ]
    data = open_folder(write(tmp_path, rows))
    image, target = data[0]
    assert data.names == {1: "cat", 2: "dog"}
    assert data.category_ids == [3, 90]
    assert target["labels"].tolist() == [2, 1]
    assert target["boxes"].tolist() == [[2, 2, 12, 10], [30, 0, 40, 15]]
    assert target["iscrowd"].tolist() == [0, 0]  # the crowd is not a target
    assert [o["iscrowd"] for o in data.annotations()["annotations"]] == [0, 0, 1]
    assert target["image_id"] == 7
    assert image[:, 0, 0].tolist() == pytest.approx([1, 0, 0.2])


def test_masks_from_polygons_and_run_lengths(tmp_path):
    mask = np.zeros((30, 40), dtype=np.uint8)
    mask[2:10, 2:12] = 1
    flat = mask.T.reshape(-1)  # COCO counts down the columns
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges, flat.size]).tolist()
    rows = [
        annotation([2, 2, 10, 8], 1),
        annotation([2, 2, 10, 8], 2, segmentation={"size": [30, 40], "counts": counts}),
    ]
    masks = open_folder(write(tmp_path, rows))[0][1]["masks"]
    assert np.array_equal(masks[0], mask)
    assert np.array_equal(masks[1], mask)
    assert "masks" not in open_folder(tmp_path, masks=False)[0][1]


BAD = {
    "an empty box": [annotation([5, 5, 0, 4], 11), annotation([5, 5, 4, 1e-9], 12)],
    "a negative size": [annotation([5, 5, -3, 4], 13)],
    "a box outside of its image": [annotation([50, 5, 3, 4], 14), annotation([5, -9, 3, 9], 15)],
    "no box of four finite numbers": [annotation([5, 5, float("nan"), 4], 16), annotation([1, 2, 3], 17)],
}
UNDRAWN = [[], [[1, 2, 3, 4]], None, {"size": [40, 30], "counts": [1200]}]  # labelling tools export boxes so


def test_bad_annotations_are_left_out_and_counted_once(tmp_path, caplog):
    rows = [annotation([2, 2, 10, 8], 1), *(row for kind in BAD.values() for row in kind)]
    with caplog.at_level(logging.WARNING):
        data = open_folder(write(tmp_path, rows))
    assert len(data[0][1]["boxes"]) == 1
    assert len(caplog.records) == 1
    said = caplog.text
    assert "left out 7 of 8 annotations" in said
    for kind, rows in BAD.items():
        assert f"{len(rows)} with {kind} (id {', '.join(str(r['id']) for r in rows)})" in said


def test_objects_without_a_mask_keep_their_box_and_are_counted(tmp_path, caplog):
    """Only the masks of the others are trained and scored; a detection of such an object is neither right nor wrong."""
    rows = [annotation([5, 5, 20, 20], 1)]
    rows += [annotation([25, 15, 3 + n, 4], 2 + n, 3, segmentation=code) for n, code in enumerate(UNDRAWN)]
    with caplog.at_level(logging.WARNING):
        data = open_folder(write(tmp_path, rows))
    assert caplog.messages == [f"{tmp_path / 'instances.json'}: 4 of 5 objects have a box, but no mask"]
    target = data[0][1]
    assert target["boxes"][1:].tolist() == [[25, 15, 28 + n, 19] for n in range(4)]
    assert target["masks"].flatten(1).any(1).tolist() == [True, False, False, False, False]
    scores = evaluate(Known(data), data)
    assert [scores[f"{kind} mAP@[.5:.95]"] for kind in ("box", "mask")] == pytest.approx([1, 1])
    data = open_folder(write(tmp_path, rows[1:]), on_bad="raise")
    assert not any("mask" in name for name in evaluate(Known(data), data))
    with pytest.raises(InputError, match="iou_types has 'segm', but data have no masks"):
        evaluate(Known(data), data, iou_types=("segm",))
    assert "masks" not in open_folder(tmp_path, masks=False)[0][1]


@pytest.mark.parametrize("kind", BAD)
def test_bad_annotations_can_be_refused(tmp_path, kind):
    with pytest.raises(InputError, match=f"annotation {BAD[kind][0]['id']} has {kind}"):
        open_folder(write(tmp_path, BAD[kind]), on_bad="raise")


def test_images_without_targets_stay_or_go(tmp_path):
    images = [{"id": i, "file_name": "a.png", "width": 40, "height": 30} for i in (5, 7)]
    write(tmp_path, [annotation([2, 2, 10, 8])], images)
    target = open_folder(tmp_path)[0][1]
    assert target["boxes"].shape == (0, 4)
    assert target["masks"].shape == (0, 30, 40)
    assert open_folder(tmp_path, keep_empty=False).ids == [7]


def broken(text):
    def make(folder):
        (write(folder) / "instances.json").write_text(text)

    return make


def image_of_another_size(folder):
    write(folder)
    Image.new("RGB", (30, 40)).save(folder / "images" / "a.png")


def truncated_image(folder):
    write(folder)
    (folder / "images" / "a.png").write_bytes((folder / "images" / "a.png").read_bytes()[:60])


def test_annotations_refer_to_the_upright_image(tmp_path):
    """The stored image lies on its side, and has 16 bits: of a ramp from 0 to 65535, all levels are left."""
    write(tmp_path, [annotation([1, 1, 2, 2], 8)])
    ramp = np.linspace(0, 65535, 40 * 30).astype(np.uint16).reshape(30, 40)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(ramp)).save(tmp_path / "images" / "a.png", exif=exif)
    image, _ = open_folder(tmp_path)[0]
    assert image.shape == (3, 30, 40)
    torch.testing.assert_close(image[1].double(), torch.from_numpy(ramp / 65535), atol=1e-6, rtol=0, check_dtype=False)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda f: write(f, [annotation([1, 1, 2, 2], 8, category=4)]), "annotation 8 has unknown category 4"),
        (lambda f: write(f, [{**annotation([1, 1, 2, 2], 9), "image_id": 6}]), "annotation 9 has unknown image 6"),
        (lambda f: (write(f) / "images" / "a.png").unlink(), "a.png of "),
        (broken("{"), "instances.json cannot be read as JSON"),
        (broken("[]"), "holds a list"),
        (broken("{}"), "'images' must be a list of objects"),
        (broken('{"images": [{"id": 1}]}'), "images[0] lacks file_name, height, width"),
        (lambda f: write(f, categories=[{"id": 1}, {"id": 1}]), "categories has the id 1 more than once"),
        (image_of_another_size, "a.png is 30 x 40, not 40 x 30"),
        (truncated_image, "a.png' cannot be read"),
        (lambda f: None, "instances.json cannot be read as JSON"),
    ],
)
@pytest.mark.parametrize("on_bad", ["drop", "raise"])
def test_broken_files_are_always_refused(tmp_path, make, said, on_bad):
    make(tmp_path)
    with pytest.raises(InputError) as e:
        open_folder(tmp_path, on_bad=on_bad)[0]
    assert said in str(e.value)
    assert "\n" not in str(e.value)


def test_jitter_keeps_boxes_masks_and_labels_in_step(world):
    """Each class has its own grey, so a picture shows where its objects are after any change."""
    torch.manual_seed(0)
    jitter = LargeScaleJitter(64, (0.8, 2.0))
    sizes = set()
    for i in range(60):
        image, target = world.scene(i % len(world))
        target["labels"] = torch.arange(len(target["labels"])) + 1
        picture = torch.zeros_like(image)
        for label, mask in zip(target["labels"], target["masks"], strict=True):
            picture[:, mask.bool()] = label / 10
        out, got = jitter(tv_tensors.Image(picture), target)
        assert out.shape == (3, 64, 64)
        n = len(got["labels"])
        assert {len(got[k]) for k in ("boxes", "masks", "area", "iscrowd")} == {n}
        assert (got["masks"].dtype, type(got["masks"])) == (torch.uint8, tv_tensors.Mask)
        sizes.add(n)
        for label, mask, box, area in zip(got["labels"], got["masks"], got["boxes"].tolist(), got["area"], strict=True):
            y, x = torch.where(mask)
            assert box[0] <= x.min() + 0.5 < x.max() + 1 <= box[2] + 0.5
            assert box[1] <= y.min() + 0.5 < y.max() + 1 <= box[3] + 0.5
            assert area == mask.sum()
            if area > 30:  # smaller remains consist mostly of their edge
                assert round(10 * float(out[1][mask.bool()].median())) == label
    assert len(sizes) > 1  # some objects were cropped away


def rectangle(box, size):
    """Return a picture and a target of one rectangle (x0, y0, x1, y1), whose mask is also the picture."""
    mask = torch.zeros(1, *size, dtype=torch.uint8)
    x0, y0, x1, y1 = box
    mask[0, y0:y1, x0:x1] = 1
    target = {"boxes": torch.tensor([box]), "labels": torch.tensor([1]), "iscrowd": torch.tensor([0])}
    return mask.float().expand(3, -1, -1), {**target, "masks": mask}


def drawn_box(rng, size):
    """Draw a rectangle of 8 pixels or more inside an image."""
    sides = [sorted(rng.sample(range(0, side + 1, 4), 2)) for side in (size[1], size[0])]
    (x0, x1), (y0, y1) = sides
    return (x0, y0, x1, y1) if x1 - x0 >= 8 <= y1 - y0 else drawn_box(rng, size)


def centres(pixels):
    """Return the centre (x, y) of what is drawn in float64, in pixels whose centres are at 0.5, 1.5 ..."""
    pixels = pixels.double()
    return [
        float((pixels.sum(axis) * (torch.arange(pixels.shape[1 - axis]) + 0.5)).sum() / pixels.sum()) for axis in (0, 1)
    ]


def test_jitter_moves_image_box_and_mask_to_the_same_place():
    """The box is the object's scaled and clipped box in float64. Each mask pixel is the old one below its centre."""
    rng = random.Random(0)
    shifts = []
    for trial in range(60):
        size = (rng.randrange(40, 97), rng.randrange(40, 97))
        box = drawn_box(rng, size)
        scale = rng.choice((0.2, 0.35, 0.5, 0.61, 0.8, 1.0, 1.3, 2.0))
        image, target = rectangle(box, size)
        jitter = LargeScaleJitter(64, (scale, scale))
        jitter.flip = lambda *pair: pair
        torch.manual_seed(trial)
        out, got = jitter(tv_tensors.Image(image), target)
        torch.manual_seed(trial)
        torch.rand(())
        new = [int(side * 64 / max(size) * scale) for side in size]
        top, left = (int(torch.randint(max(side - 64, 0) + 1, ())) for side in new)
        ratio = [new[1] / size[1], new[0] / size[0]]
        exact = [min(max(v * ratio[i % 2] - (left, top)[i % 2], 0), 64) for i, v in enumerate(box)]
        exact = [min(v, (new[1], new[0])[i % 2]) for i, v in enumerate(exact)]
        if min(exact[2] - exact[0], exact[3] - exact[1]) < 1:
            assert len(got["boxes"]) == 0
            continue
        assert got["boxes"][0].tolist() == pytest.approx(exact, abs=1e-4)
        rows, columns = (((np.arange(64) + corner + 0.5) / r) for corner, r in ((top, ratio[1]), (left, ratio[0])))
        inside = ((rows >= box[1]) & (rows < box[3]))[:, None] & ((columns >= box[0]) & (columns < box[2]))
        unsure = np.abs(rows % 1 - 0.5).max() > 0.5 - 1e-9 or np.abs(columns % 1 - 0.5).max() > 0.5 - 1e-9
        assert unsure or np.array_equal(got["masks"][0], inside)
        if got["masks"].any() and max(exact) < 64:
            shifts.append(np.subtract(centres(got["masks"][0]), centres(out[0] * (out != MEAN).any(0))))
    assert len(shifts) > 15
    assert np.abs(np.mean(shifts, 0)).max() < 0.1
    assert np.abs(shifts).max() < 0.8


def test_jitter_shrinks_a_box_to_what_a_crop_leaves_of_its_mask():
    """At scale 2 masks are sampled exactly, so the box is that of the mask; an L loses an arm to most crops."""
    mask = torch.zeros(1, 32, 32, dtype=torch.uint8)
    mask[0, 2:30, 2:6] = mask[0, 26:30, 2:30] = 1
    target = {
        "boxes": tv_tensors.BoundingBoxes([[2.0, 2.0, 30.0, 30.0]], format="XYXY", canvas_size=(32, 32)),
        "labels": torch.tensor([1]),
        "masks": tv_tensors.Mask(mask),
        "area": torch.tensor([208.0]),
        "iscrowd": torch.tensor([0]),
    }
    torch.manual_seed(0)
    for _ in range(30):
        _, out = LargeScaleJitter(32, (2, 2))(tv_tensors.Image(mask.float().expand(3, -1, -1)), target)
        for box, left in zip(out["boxes"].tolist(), out["masks"], strict=True):
            y, x = torch.where(left)
            assert box == [x.min(), y.min(), x.max() + 1, y.max() + 1]


def test_jitter_flips_half_of_the_time_and_does_nothing_else_at_scale_one(world):
    torch.manual_seed(0)
    image, target = world[0]
    flips = 0
    for _ in range(40):
        out, got = LargeScaleJitter(64, (1, 1))(image, dict(target))
        flipped = not torch.equal(out, image)
        flips += flipped
        x0, y0, x1, y1 = target["boxes"].unbind(1)
        boxes = torch.stack([64 - x1, y0, 64 - x0, y1] if flipped else [x0, y0, x1, y1], 1)
        assert torch.equal(out, image.flip(-1) if flipped else image)
        assert torch.equal(got["boxes"], boxes)
        assert torch.equal(got["masks"], target["masks"].flip(-1) if flipped else target["masks"])
    assert 10 < flips < 30


def test_jitter_pads_with_the_mean_and_covers_the_scales(world):
    torch.manual_seed(0)
    image, target = world[0]
    shares = []
    for _ in range(150):
        out, _ = LargeScaleJitter(32)(image, dict(target))
        padding = (out == torch.tensor(DETECTION_MEAN)[:, None, None]).all(0)
        assert padding[-1, -1] or not padding.any()  # only at the bottom and on the right
        shares.append(1 - float(padding.float().mean()))
    side = np.sqrt(shares)
    assert side.min() < 0.2
    assert np.mean(side == 1) == pytest.approx(1 / 1.9, abs=0.1)  # scales above 1 fill the picture


class Known(nn.Module):
    """A model that returns the targets of a dataset in order, each changed by a function."""

    def __init__(self, data, change=lambda prediction: prediction):
        super().__init__()
        self.data, self.change, self.next = data, change, 0

    def forward(self, images):
        assert not self.training
        return [self.one(image) for image in images]

    def one(self, image):
        expected, target = self.data.scene(self.next)
        assert torch.equal(image, expected)
        self.next += 1
        prediction = {"boxes": target["boxes"].as_subclass(torch.Tensor), "labels": target["labels"]}
        prediction |= {"scores": torch.ones(len(target["labels"])), "masks": target["masks"][:, None].float()}
        return self.change(prediction)


@pytest.mark.parametrize(("batch", "training"), [(1, True), (4, False)])
def test_perfect_predictions_score_one(world, folder, batch, training):
    for data in (world, open_folder(folder)):
        model = Known(data).train(training)
        scores = evaluate(model, data, batch_size=batch)
        assert model.training is training
        assert {"box mAP@[.5:.95]", "box AP50", "mask AP75", "mask AP small"} < set(scores)
        assert "box AP large" not in scores  # no object is large
        assert all(score == pytest.approx(1) for score in scores.values())


def test_the_score_does_not_depend_on_the_batch_size(tmp_path):
    """Images of different sizes, which a detector would pad to a common one, are scored on their own."""
    images, rows = [], []
    (tmp_path / "images").mkdir()
    for i, size in enumerate([(96, 96), (60, 96), (96, 40), (60, 96)]):
        scene = shapes.Images("heldout", size=96, count=4)[i]
        Image.fromarray(scene.image).crop((0, 0, *size)).save(tmp_path / "images" / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "width": size[0], "height": size[1]})
        for o in scene.objects:
            x0, y0, x1, y1 = (float(v) for v in o.box)
            entry = {"id": len(rows) + 1, "image_id": i, "category_id": shapes.SHAPES.index(o.shape) + 1}
            rows.append({**entry, "bbox": [x0, y0, x1 - x0, y1 - y0]})
    categories = [{"id": i, "name": name} for i, name in enumerate(shapes.SHAPES, 1)]
    content = {"images": images, "categories": categories, "annotations": rows}
    (tmp_path / "instances.json").write_text(json.dumps(content))
    data = open_folder(tmp_path, masks=False)
    model = plm_core.create_model("hiera_micro_detector", pretrained=True)
    alone, together = (evaluate(model, data, batch_size=n, iou_types=("bbox",)) for n in (1, 4))
    assert together == pytest.approx(alone, abs=1e-6)
    assert alone["box mAP@[.5:.95]"] > 0.3


def test_shifted_boxes_pass_the_thresholds_below_their_overlap(tmp_path):
    """Boxes of width 20, shifted by 4, overlap by 16 / 24. This passes .5, .55, .6 and .65 of the ten thresholds."""
    data = open_folder(write(tmp_path, [annotation([5, 5, 20, 20], 0)]))

    def shift(prediction):
        return {**prediction, "boxes": prediction["boxes"] + torch.tensor([4, 0, 4, 0])}

    scores = evaluate(Known(data, shift), data)
    assert scores["box mAP@[.5:.95]"] == pytest.approx(0.4)
    assert scores["box AP50"] == pytest.approx(1)
    assert scores["box AP75"] == pytest.approx(0)
    assert scores["mask mAP@[.5:.95]"] == pytest.approx(1)


def test_wrong_labels_and_empty_predictions_score_zero(world):
    def wrong(prediction):
        return {**prediction, "labels": prediction["labels"] % 8 + 1}

    def nothing(prediction):
        return {name: value[:0] for name, value in prediction.items()}

    assert evaluate(Known(world, wrong), world)["box AP50"] < 0.1
    scores = evaluate(Known(world, nothing), world)
    assert scores["box mAP@[.5:.95]"] == scores["mask mAP@[.5:.95]"] == 0


def test_detections_inside_crowds_do_not_count(tmp_path):
    """A detection inside a crowd is neither right nor wrong."""
    rows = [annotation([2, 2, 10, 8], 1), annotation([20, 10, 20, 20], 2, iscrowd=1)]

    def two(prediction):
        more = {"boxes": torch.tensor([[22.0, 12, 30, 25]]), "labels": torch.tensor([2]), "scores": torch.tensor([1.0])}
        return {k: torch.cat([v, prediction[k]]) for k, v in more.items()}

    data = open_folder(write(tmp_path, rows))
    assert evaluate(Known(data, two), data)["box mAP@[.5:.95]"] == pytest.approx(1)
    rows[1]["iscrowd"] = 0
    data = open_folder(write(tmp_path, rows))
    assert evaluate(Known(data, lambda p: two({k: v[:1] for k, v in p.items()})), data)["box AP75"] < 0.6


def test_the_limit_scores_a_part_of_the_data(world):
    predictions = []
    scores = evaluate(Known(world, lambda p: predictions.append(1) or p), world, limit=2, iou_types=("bbox",))
    assert len(predictions) == 2
    assert scores["box mAP@[.5:.95]"] == pytest.approx(1)
    assert not any("mask" in name for name in scores)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda w: evaluate(Known(w), w, iou_types=("boxes",)), "iou_types ('boxes',) is not allowed"),
        (
            lambda w: evaluate(
                Known(w, lambda p: {k: p[k] for k in ("boxes", "labels", "scores")}), w, iou_types=("segm",)
            ),
            "the model predicts no masks",
        ),
        (lambda w: evaluate(Known(w), w, limit=0), "data have no object"),
        (lambda w: LargeScaleJitter(32, (0, 1)), "scale (0, 1) is not allowed"),
        (lambda w: CocoDetection("a", "b", on_bad="skip"), "on_bad 'skip' is not allowed"),
    ],
)
def test_bad_input_is_named(world, call, said):
    with pytest.raises(InputError) as e:
        call(world)
    assert said in str(e.value)


def test_a_few_steps_on_one_scene_learn_it(world):
    """The loss for a trainer is the sum of its named parts, and it goes down."""
    torch.manual_seed(0)
    model = micro_detector(img_size=64).train()
    batch = collate([world[0]])
    assert type(batch["images"][0]) is type(batch["targets"][0]["boxes"]) is torch.Tensor
    total, parts = loss(model, batch)
    assert total.item() == pytest.approx(sum(float(p) for p in parts.values()), rel=1e-5)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for _ in range(8):
        optimizer.zero_grad()
        now, _ = loss(model, batch)
        now.backward()
        optimizer.step()
    assert now < 0.7 * total


def test_pictures_are_labelled(world):
    """Drawn as plm predict draws. A score equal to the threshold is high enough."""
    image, target = world[0]
    plain, picture = draw(image, target, world.names, threshold=2), draw(image, target, world.names)
    factor = plain.width // 64
    assert picture.size == plain.size == (64 * factor, 64 * factor)
    changed = (np.asarray(picture) != np.asarray(plain)).any(2)[factor // 2 :: factor, factor // 2 :: factor]
    inside = target["masks"].any(0).bool().numpy()
    assert (changed & inside).sum() > 0.9 * inside.sum()
    for score, same in ((0.0, True), (0.49, True), (0.5, False)):
        prediction = {**target, "scores": torch.full((len(target["labels"]),), score)}
        assert (draw(image, prediction, world.names, threshold=0.5).tobytes() == plain.tobytes()) is same
