"""Predictions for files: each task's own results, with the names of the classes, in the order of the files."""

import csv
import json
import sys
from dataclasses import asdict, replace
from itertools import pairwise

import av
import numpy as np
import pytest
import timm
import torch
import transformers
from PIL import Image
from pycocotools import mask as coco_mask
from timm.data import ImageNetInfo
from torchvision.transforms.functional import to_tensor

import plm_core
from plm_core import InputError, MissingDependency, NotSupported, WeightsError, shapes
from plm_core.prediction import (
    KINDS,
    Detection,
    Mask,
    Task,
    draw,
    find_files,
    predict,
    select_files,
    task_of,
    trained_model,
)
from plm_core.prediction.clips import clip_input
from plm_core.prediction.drawing import OPACITY, colour_of
from plm_core.prediction.files import Kind
from plm_core.prediction.labels import labels_of
from plm_core.prediction.outputs import Outputs
from plm_core.prediction.timeline import shown_classes, timeline

DETECTOR = "hiera_micro_detector"


@pytest.fixture(scope="module")
def detector():
    return trained_model(DETECTOR)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """PNG files of four held-out scenes."""
    folder = tmp_path_factory.mktemp("scenes")
    files = [folder / f"scene{i}.png" for i in range(4)]
    for file, scene in zip(files, shapes.Images("heldout", size=96, count=4), strict=True):
        Image.fromarray(scene.image).save(file)
    return files


# --- the task and the names of the classes ----------------------------------------------------------------------


def test_the_task_is_the_declared_one():
    names = {"hiera_micro_digits": Task.IMAGES, DETECTOR: Task.OBJECTS, "hiera_micro_motions": Task.VIDEOS}
    assert {name: task_of(plm_core.create_model(name)) for name in names} == names
    assert task_of(timm.create_model("test_vit")) == Task.IMAGES
    assert task_of(torch.nn.Linear(1, 1), "object-detection") == Task.OBJECTS
    with pytest.raises(InputError, match="task 'detection' is not allowed: image-classification, "):
        task_of(torch.nn.Linear(1, 1), "detection")


def test_a_model_of_another_task_is_refused(plm_registry):
    declares = "from plm_core.hookspecs import *\n@hookimpl\ndef plm_models():\n    return [" + (
        "Model(name='demo', family='demo', builder='torch.nn:Identity', params=0, task='mask-generation')]"
    )
    plm_registry({"name": "demo", "modules": {"demo_plugin.py": declares}, "entry_points": {"demo": "demo_plugin"}})
    model = torch.nn.Identity()
    model.pretrained_cfg = {"architecture": "demo"}
    with pytest.raises(NotSupported, match="model 'demo' is for mask-generation; predictions are made for image-cl"):
        task_of(model)


def test_a_model_without_classes_says_what_to_use_instead(scenes, monkeypatch):
    with pytest.raises(NotSupported, match=r"'test_vit' has no classes: plm_core\.embed .* plm train finetune"):
        predict(timm.create_model("test_vit", num_classes=0).eval(), scenes)
    # the weights of a pretrained encoder leave the classifier at its random values
    model = timm.create_model("test_vit")
    model.pretrained_cfg["num_classes"] = 0
    monkeypatch.setattr("plm_core.prediction.tasks.create_model", lambda name, pretrained: model)
    with pytest.raises(NotSupported, match=r"the weights of model 'test_vit\.mae' have no trained classes: plm_core"):
        trained_model("test_vit.mae")


def test_label_names():
    model = timm.create_model("test_vit")
    assert labels_of(model, Task.IMAGES)(7) == ImageNetInfo("imagenet-1k").index_to_description(7)
    assert labels_of(model, Task.VIDEOS)(7) == "7"
    model = timm.create_model("test_vit", num_classes=3)
    assert labels_of(model, Task.IMAGES)(2) == "2"
    assert labels_of(model, Task.IMAGES, ["a", "b", "c"])(2) == "c"
    model.pretrained_cfg["label_names"] = {"0": "n1", "2": "n2"}  # as timm reads them from a config.json
    model.pretrained_cfg["label_descriptions"] = {"n1": "cat", "n2": "dog"}
    assert [labels_of(model, Task.IMAGES)(i) for i in range(3)] == ["cat", "1", "dog"]
    model.pretrained_cfg["label_descriptions"] = {"n1": "cat"}
    with pytest.raises(InputError, match="label names of model 'test_vit' cannot be used: Missing descriptions"):
        labels_of(model, Task.IMAGES)


def test_labels_that_do_not_match_the_head(scenes):
    model = plm_core.create_model("hiera_micro_digits", pretrained=True, num_classes=4).eval()
    with pytest.raises(InputError, match="'hiera_micro_digits' has 4 classes, but 10 label names"):
        predict(model, scenes)
    [result] = predict(model, scenes[:1], labels=["a", "b", "c", "d"])
    assert sorted(c.label for c in result.classes) == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("name", "task", "first", "last"),
    [
        ("resnet18", Task.IMAGES, "tench", "toilet tissue"),
        ("r3d_18", Task.VIDEOS, "abseiling", "zumba"),
        ("ssdlite320_mobilenet_v3_large", Task.OBJECTS, "person", "toothbrush"),
    ],
)
def test_a_model_of_torchvision_has_the_names_of_its_weights(name, task, first, last):
    with torch.device("meta"):
        model = plm_core.create_model(f"torchvision:{name}")
    assert task_of(model) == task
    labels = labels_of(model, task)
    numbers = {Task.IMAGES: 999, Task.VIDEOS: 399, Task.OBJECTS: 89}
    assert (labels(0), labels(numbers[task])) == (first, last)


def test_a_model_of_torchvision_with_another_head():
    with torch.device("meta"):
        few, none = (plm_core.create_model("torchvision:resnet18", num_classes=n) for n in (3, 0))
        segmenter = plm_core.create_model("torchvision:lraspp_mobilenet_v3_large")
    assert labels_of(few, task_of(few))(2) == "2"
    with pytest.raises(NotSupported, match="'torchvision:resnet18' has no classes: plm_core"):
        task_of(none)
    with pytest.raises(NotSupported, match="'torchvision:lraspp_mobilenet_v3_large' is for image-segmentation"):
        task_of(segmenter)


def test_a_model_of_transformers_has_the_names_of_its_config(tmp_path, scenes):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = transformers.ViTConfig(**sizes, image_size=32, patch_size=16, id2label={0: "cat", 1: "dog"})
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    model = trained_model(f"transformers:{tmp_path}")
    results = list(predict(model, scenes))
    assert {c.label for result in results for c in result.classes} == {"cat", "dog"}
    assert sum(c.probability for c in results[0].classes) == pytest.approx(1, abs=1e-5)
    with pytest.raises(NotSupported, match="'transformers:ViTModel' has no classes"):
        task_of(transformers.ViTModel(config))


# --- files ------------------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path):
    """A folder of empty files."""
    for name in ("b/10.JPG", "b/9.png", "b/c/1.tiff", "a.mp4", "notes.txt", "LICENSE", ".x.png", ".git/y.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_folders_are_searched_in_natural_order(tree):
    files = find_files([tree])
    images = select_files(files, Kind.IMAGE, "m")
    assert [str(file.name) for file in images] == ["b/9.png", "b/10.JPG", "b/c/1.tiff"]
    assert [file.path for file in select_files(files, Kind.VIDEO, "m")] == [tree / "a.mp4"]
    assert [str(file.name) for file in find_files([tree / "b/c/1.tiff", tree / "b/c"])] == ["1.tiff", "1.tiff"]


@pytest.mark.parametrize(
    ("path", "kind", "said"),
    [
        ("b", Kind.VIDEO, r"b' has no videos, which model 'm' takes: found 1 \.jpg file, 1 \.png file, 1 \.tiff file"),
        ("a.mp4", Kind.IMAGE, r"a\.mp4' is a video; model 'm' takes images"),
        ("b/9.png", Kind.VIDEO, r"9\.png' is an image; model 'm' takes videos"),
        ("b/8.png", Kind.IMAGE, r"8\.png' does not exist"),
        (
            "texts",
            Kind.IMAGE,
            r"texts' has no images or videos: found 3 \.txt files, 1 \.csv file, 1 \.md file and 1 more",
        ),
        ("empty", Kind.IMAGE, r"empty' has no images or videos: found no files"),
    ],
)
def test_paths_without_the_right_files_say_what_they_have(tree, path, kind, said):
    for folder in ("texts", "empty"):
        (tree / folder).mkdir()
    for name in ("1.txt", "2.txt", "3.TXT", "README", "a.csv", "b.md"):
        (tree / "texts" / name).touch()
    with pytest.raises(InputError, match=said):
        select_files(find_files([tree / path]), kind, "m")


def test_a_file_of_unknown_kind_is_tried(scenes, tmp_path):
    (tmp_path / "scene").write_bytes(scenes[0].read_bytes())
    model = trained_model("hiera_micro_shapes")
    [a, b] = predict(model, [scenes[0], tmp_path / "scene"])
    assert a.classes == b.classes


# --- images -----------------------------------------------------------------------------------------------------


def test_classes_do_not_depend_on_batches_or_workers(scenes):
    model = trained_model("hiera_micro_shapes")
    one = list(predict(model, scenes, batch_size=1, top=3))
    assert [result.path for result in one] == scenes
    for result, file in zip(one, scenes, strict=True):
        logits = model(plm_core.transform_for(model)(Image.open(file))[None])[0].detach()
        assert result.classes[0].number == int(logits.argmax())
        assert result.classes[0].probability == pytest.approx(float(logits.softmax(0).max()), abs=1e-5)
        assert len(result.classes) == 3
    for other in (predict(model, scenes, batch_size=3, top=3), predict(model, scenes, num_workers=1, top=3)):
        for a, b in zip(one, other, strict=True):
            assert [c.number for c in a.classes] == [c.number for c in b.classes]
            assert a.classes[0].probability == pytest.approx(b.classes[0].probability, abs=1e-5)


def test_a_model_that_gives_probabilities_says_so(scenes):
    model = trained_model("hiera_micro_shapes")
    [logits] = predict(model, scenes[:1])
    model.probabilities = True
    [probabilities] = predict(model, scenes[:1])
    assert [c.label for c in logits.classes] == [c.label for c in probabilities.classes]
    assert logits.classes[0].probability == pytest.approx(probabilities.classes[0].probability, abs=1e-5)


def test_an_image_is_turned_as_its_exif_data_say(tmp_path, scenes):
    upright = Image.open(scenes[0]).crop((0, 0, 96, 64))
    upright.save(tmp_path / "upright.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to view
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    a, b = predict(trained_model(DETECTOR), [tmp_path / "upright.png", tmp_path / "turned.png"])
    assert (b.width, b.height) == (96, 64)
    assert a.detections == b.detections != ()


def test_a_broken_image_among_others(scenes, tmp_path):
    (tmp_path / "broken.png").write_bytes(scenes[0].read_bytes()[:99])
    files = [scenes[0], tmp_path / "broken.png", scenes[1]]
    model = trained_model("hiera_micro_shapes")
    with pytest.raises(InputError, match=r"broken\.png' cannot be read"):
        list(predict(model, files))
    errors = []
    assert [r.path for r in predict(model, files, batch_size=2, on_error=errors.append)] == [scenes[0], scenes[1]]
    assert ["broken.png" in str(error) for error in errors] == [True]
    assert list(predict(model, files[1:2], on_error=errors.append)) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"top": 3}, "top is for image-classification and video-classification; model 'hiera_.*' is for object-detec"),
        ({"stride": 2}, "stride is for video-classification; model"),
        ({"batch_size": 0}, "batch_size 0 is not allowed"),
        ({"num_workers": -1}, "num_workers -1 is not allowed"),
        ({"threshold": 1.5}, "threshold 1.5 is not allowed: 0 to 1 is"),
        ({"dtype": "fp8"}, "dtype 'fp8' is not allowed"),
    ],
)
def test_arguments_are_checked_at_once(detector, scenes, options, said):
    with pytest.raises(InputError, match=said):
        predict(detector, scenes, **options)


def test_options_of_other_tasks_are_refused(classifier, scenes, video):
    images = timm.create_model("test_vit").eval()
    for model, file, option in (
        (images, scenes[0], "threshold"),
        (images, scenes[0], "stride"),
        (classifier, video, "threshold"),
    ):
        with pytest.raises(InputError, match=f"^{option} is for .*-.*; model '.*' is for "):
            predict(model, [file], **{option: 1})
    with pytest.raises(InputError, match="top 0 is not allowed"):
        predict(images, scenes[:1], top=0)
    assert len(next(predict(images, scenes[:1])).classes) == 5
    assert len(next(predict(images, scenes[:1], top=2)).classes) == 2


def test_plm_predict_refuses_an_option_without_effect(plm, scenes):
    result = plm("predict", "hiera_micro_shapes", scenes[0], "--threshold", "0.9")
    said = "threshold is for object-detection; model 'hiera_micro_shapes' is for image-classification"
    assert (result.code, result.out, result.err.splitlines()[-1]) == (2, "", f"plm: error: {said}")


def test_nan_is_an_error_and_no_prediction(scenes, tmp_path, plm):
    model = timm.create_model("test_vit", num_classes=2).eval()
    torch.nn.init.constant_(model.head.bias, float("inf"))  # as an overflow in half precision: inf - inf
    with pytest.raises(WeightsError, match="model 'test_vit' gives NaN"):
        next(predict(model, scenes[:1]))
    plm_core.weights.save_pretrained(model, tmp_path, "mit")
    result = plm("predict", tmp_path, scenes[0])
    assert (result.code, result.out) == (2, "")
    assert f"weights of model '{tmp_path}' are not finite: head.bias and 0 others" in result.err


def test_a_model_in_training_mode_is_refused(scenes):
    with pytest.raises(InputError, match=r"'test_vit' is in training mode: call model\.eval\(\) first"):
        predict(timm.create_model("test_vit"), scenes)


# --- objects ----------------------------------------------------------------------------------------------------


def test_objects_are_those_of_the_detector(detector, scenes):
    results = list(predict(detector, scenes, threshold=0.7, batch_size=3))
    for result, file in zip(results, scenes, strict=True):
        with torch.no_grad():
            [raw] = detector([to_tensor(Image.open(file))])
        keep = raw["scores"] >= 0.7
        assert [d.number for d in result.detections] == raw["labels"][keep].tolist()
        assert [d.label for d in result.detections] == [shapes.SHAPES[i - 1] for i in raw["labels"][keep]]
        boxes = torch.tensor([d.box for d in result.detections])
        torch.testing.assert_close(boxes, raw["boxes"][keep], atol=1e-3, rtol=0)
        masks = np.stack([d.mask.decode() for d in result.detections])
        assert (masks == (raw["masks"][keep, 0] >= 0.5).numpy()).mean() > 0.9999
    truth = [sorted(o.shape for o in scene.objects) for scene in shapes.Images("heldout", size=96, count=4)]
    assert [sorted(d.label for d in result.detections) for result in results] == truth


def test_objects_do_not_depend_on_the_batch(detector, tmp_path):
    """A detector pads the images of a batch to a common size, which changes what it finds in the smaller ones."""
    files = [tmp_path / f"{i}.png" for i in range(4)]
    sizes = [(60, 96), (96, 96), (60, 96), (96, 40)]
    for file, size, scene in zip(files, sizes, shapes.Images("heldout", size=96, count=4), strict=True):
        Image.fromarray(scene.image).crop((0, 0, *size)).save(file)
    alone, together = (list(predict(detector, files, threshold=0.1, batch_size=n)) for n in (1, 4))
    for a, b in zip(alone, together, strict=True):
        assert (b.path, b.width, b.height) == (a.path, a.width, a.height)
        assert [d.label for d in b.detections] == [d.label for d in a.detections] != []
        assert [d.score for d in b.detections] == pytest.approx([d.score for d in a.detections], abs=1e-4)


def test_the_threshold_drops_objects(detector, scenes):
    few, all_ = (next(predict(detector, scenes[:1], threshold=t)).detections for t in (0.995, 0))
    assert 0 < len(few) < len(all_)
    assert few == all_[: len(few)]


def test_masks_are_cocos_run_lengths():
    rng = np.random.default_rng(0)
    masks = [rng.random(rng.integers(1, 90, 2)) < rng.random() for _ in range(20)]
    for mask in [*masks, np.ones((3, 2), bool), np.zeros((3, 2), bool), np.arange(4000).reshape(50, 80) > 700]:
        code = Mask.encode(mask)
        assert code.counts == coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
        assert (code.decode() == mask).all()


# --- videos -----------------------------------------------------------------------------------------------------


def write_video(path, clips, rate=8):
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate, options={"crf": "10"})
        stream.width = stream.height = clips[0].frames.shape[1]
        for picture in np.concatenate([clip.frames for clip in clips]):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode())
    return path


def motion(clip):
    """The motion of the only object of a clip."""
    return next((event.motion for event in clip.events if event.motion != "still"), "still")


@pytest.fixture(scope="module")
def motions():
    return list(shapes.Clips("heldout", size=64, count=5, objects=(1, 1), background="plain"))


@pytest.fixture(scope="module")
def video(motions, tmp_path_factory):
    """Five clips of eight frames, one after the other."""
    return write_video(tmp_path_factory.mktemp("videos") / "motions.mp4", motions)


@pytest.fixture(scope="module")
def classifier():
    return trained_model("hiera_micro_motions")


def test_a_video_has_classes_over_time(classifier, motions, video):
    advanced = []
    [result] = predict(classifier, [video], top=2, batch_size=2, advance=advanced.append)
    assert [window.classes[0].label for window in result.windows] == list(map(motion, motions))
    assert [(window.start, window.end) for window in result.windows] == [(i, i + 1) for i in range(5)]
    assert advanced == pytest.approx([0.4, 0.4, 0.2])
    assert result.probabilities.shape == (5, len(shapes.MOTIONS))
    mean = result.probabilities.mean(0)
    assert [c.number for c in result.classes] == np.argsort(-mean)[:2].tolist()
    assert result.classes[0].probability == pytest.approx(mean.max(), abs=1e-6)
    whole = plm_core.video.classify(classifier, video, clips=5, crops=1, stride=1)  # the same clips
    assert mean == pytest.approx(whole.numpy(), abs=1e-5)


def test_the_stride_is_the_models_own_or_the_given_one(classifier, video):
    [result] = predict(classifier, [video], stride=4)
    assert [(window.start, window.end) for window in result.windows] == [(0, 4), (1.375, 5)]  # 29 frames of 40
    assert clip_input(plm_core.create_model("hiera_video_tiny_16x224", num_classes=2), None).stride == 4
    assert clip_input(classifier, None).stride == 1
    with pytest.raises(InputError, match="stride 0 is not allowed"):
        predict(classifier, [video], stride=0)


def test_a_video_that_is_shorter_than_a_window(classifier, motions, tmp_path):
    short = replace(motions[0], frames=motions[0].frames[:3])
    [result] = predict(classifier, [write_video(tmp_path / "short.mp4", [short])])
    assert [(window.start, window.end) for window in result.windows] == [(0, 0.375)]


def test_a_broken_video_among_others(classifier, video, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(video.read_bytes()[:300])
    errors = []
    results = list(predict(classifier, [tmp_path, video], on_error=errors.append))
    assert [result.path for result in results] == [video]
    assert "broken.mp4 cannot be read as a video" in str(errors[0])
    with pytest.raises(InputError, match=r"broken\.mp4 cannot be read"):
        list(predict(classifier, [tmp_path]))


def test_a_model_must_say_how_many_frames_it_takes():
    model = timm.create_model("test_vit")
    with torch.device("meta"):
        other = plm_core.create_model("torchvision:r3d_18")
    for net, name in ((model, "test_vit"), (other, "torchvision:r3d_18")):
        with pytest.raises(NotSupported, match=f"'{name}' does not say how many frames a clip has"):
            clip_input(net, None)


def test_the_picture_of_a_video(classifier, video):
    [result] = predict(classifier, [video], top=2)
    strip, axis = timeline(result).axes
    assert np.asarray(strip.images[0].get_array()).shape == (160, 12 * 160, 3)
    numbers = shown_classes(result)
    assert set(numbers) == set(result.probabilities.argmax(1)) | {c.number for c in result.classes}
    lines = [patch.get_data() for patch in axis.patches if not patch.get_fill()]
    for number, line in zip(numbers, lines, strict=True):
        assert line.values == pytest.approx(result.probabilities[:, number])
        assert line.edges == pytest.approx(range(6))
    legend = [text.get_text() for text in axis.get_legend().get_texts()]
    assert legend == [f"{result.probabilities[:, n].mean():.2f}  {shapes.MOTIONS[n]}" for n in numbers]
    wide = replace(result, probabilities=np.eye(30, dtype=np.float32)[:20], labels=("$_$",) * 30)
    assert len(shown_classes(wide)) == 8


# --- pictures ---------------------------------------------------------------------------------------------------


def object_at(box, number=1, label="x", mask=None):
    return Detection(number, label, 0.9, box, mask)


def is_close(pixels, colour):
    return (np.abs(np.asarray(pixels, int) - colour) < 12).all(-1)


def test_a_picture_shows_boxes_masks_and_tags():
    mask = np.zeros((800, 900), bool)
    mask[300:500, 300:600] = True
    grey = Image.new("RGB", (900, 800), (100, 100, 100))
    pixels = np.asarray(draw(grey, [object_at((200, 250, 700, 600), 3, mask=Mask.encode(mask))]))
    colour = np.array(colour_of(3))
    assert pixels.shape == (800, 900, 3)
    assert is_close(pixels[250:600, 201], colour).all()  # the left edge of the box
    assert is_close(pixels[250, 200:701], colour).all()
    assert is_close(pixels[310:490, 310:590], 100 + OPACITY * (colour - 100)).all()  # the mask lets the picture through
    assert is_close(pixels[300, 310:590], colour).all()  # and has an edge
    assert is_close(pixels[520:590, 210:690], 100).all()  # the box is empty
    tag = pixels[200:249, 200:700]
    assert is_close(tag, colour).sum() > 200  # above the box
    assert is_close(tag, 0).any()  # with letters
    assert is_close(pixels[610:], 100).all()


def test_a_small_picture_is_enlarged_and_a_large_one_has_large_letters():
    def tag(side):
        box = (0, side / 2, side - 1, side - 1)
        picture = draw(Image.new("L", (side, side)), [object_at(box)])
        rows = is_close(np.asarray(picture)[: picture.height // 2, :], colour_of(1)).any(1)
        return picture.width, rows.sum()

    assert [tag(side)[0] for side in (1, 60, 700, 3000)] == [720, 720, 700, 3000]
    assert tag(60)[1] == tag(700)[1] > 12
    assert tag(3000)[1] > 50


def test_tags_cover_neither_each_other_nor_leave_the_picture():
    box = (0, 0, 640, 480)  # no room above or below
    pixels = np.asarray(draw(Image.new("RGB", (640, 480)), [object_at(box, number) for number in (1, 2, 3)]))
    areas = [is_close(pixels, colour_of(number)).sum() for number in (2, 3)]
    alone = np.asarray(draw(Image.new("RGB", (640, 480)), [object_at(box, 2)]))
    assert min(areas) > 0.6 * (is_close(alone, colour_of(2)).sum() - 2 * 2 * (640 + 480))


def test_every_class_has_its_colour():
    colours = [colour_of(number) for number in range(1, 81)]
    assert len(set(colours)) == 80
    assert min(np.abs(np.subtract(a, b)).max() for a, b in pairwise(colours)) > 100


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "I;16"])
def test_pictures_of_any_mode(mode):
    assert draw(Image.new(mode, (30, 20)), [object_at((30, 20, 30, 20))]).mode == "RGB"


# --- files of predictions ---------------------------------------------------------------------------------------


def run(model, paths, outs):
    task = task_of(model)
    outputs = Outputs(outs, task, select_files(find_files(paths), KINDS[task], "m"))
    for result in predict(model, paths):
        outputs.add(result)
    outputs.close()
    return outputs.results


def test_the_files_of_a_detector(detector, scenes, tmp_path):
    outs = [tmp_path / "pictures", tmp_path / "found.json", tmp_path / "found.csv"]
    results = run(detector, [scenes[0].parent, scenes[0]], outs)
    assert sorted(path.name for path in outs[0].iterdir()) == [file.name for file in scenes]
    picture = draw(Image.open(scenes[2]), results[2].detections)
    assert np.array_equal(np.asarray(Image.open(outs[0] / "scene2.png")), np.asarray(picture))
    data = json.loads(outs[1].read_text())
    assert [(entry["image"], entry["width"]) for entry in data] == [(str(file), 96) for file in [*scenes, scenes[0]]]
    for entry, result in zip(data, results, strict=True):
        for detection, expected in zip(entry["detections"], result.detections, strict=True):
            assert detection["box"] == pytest.approx(expected.box, abs=0.06)
            assert detection["mask"] == asdict(expected.mask) | {"size": [96, 96]}
    with outs[2].open() as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == [d.label for result in results for d in result.detections]
    assert [float(rows[0][edge]) for edge in ("x0", "y0", "x1", "y1")] == data[0]["detections"][0]["box"]


def test_the_files_of_a_classifier(scenes, tmp_path):
    outs = [tmp_path / "classes.csv", tmp_path / "classes.json"]
    model = trained_model("hiera_micro_shapes")
    results = run(model, scenes[:2], outs)
    with outs[0].open() as file:
        rows = list(csv.DictReader(file))
    data = json.loads(outs[1].read_text())
    assert [row["label"] for row in rows] == [row["label"] for row in data]
    assert [row["label"] for row in data] == [c.label for result in results for c in result.classes]
    with pytest.raises(InputError, match=r"a model for image-classification gives \.csv and \.json files"):
        run(model, scenes, [tmp_path / "pictures"])


def test_the_files_of_a_video_model(classifier, motions, video, tmp_path):
    outs = [tmp_path / "all", tmp_path / "classes.csv", tmp_path / "classes.json", tmp_path / "classes.webp"]
    [result] = run(classifier, [video], outs)
    assert Image.open(outs[0] / "motions.png").size == (1440, 690)
    assert Image.open(outs[3]).format == "WEBP"
    with outs[1].open() as file:
        rows = list(csv.DictReader(file))
    assert [row["window"] for row in rows] == [str(i) for i in (1, 2, 3, 4, 5, "all") for _ in range(5)]
    assert [row["label"] for row in rows[:25:5]] == list(map(motion, motions))
    assert (rows[5]["start"], rows[5]["end"], rows[-1]["start"], rows[-1]["end"]) == ("1.0", "2.0", "0.0", "5.0")
    assert float(rows[25]["probability"]) == pytest.approx(result.classes[0].probability, abs=1e-4)
    [data] = json.loads(outs[2].read_text())
    assert [window["classes"][0]["label"] for window in data["windows"]] == list(map(motion, motions))
    assert [c["label"] for c in data["classes"]] == [c.label for c in result.classes]


def test_the_picture_of_a_video_needs_matplotlib(classifier, video, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependency, match=r"the picture of a video needs matplotlib: install plm-core\[tour\]"):
        run(classifier, [video], [tmp_path / "x.png"])
    run(classifier, [video], [tmp_path / "x.csv"])


def test_no_objects_are_an_empty_table(detector, tmp_path):
    Image.new("RGB", (96, 96)).save(tmp_path / "empty.png")
    run(detector, [tmp_path / "empty.png"], [tmp_path / "a.csv", tmp_path / "a.json", tmp_path / "a.jpg"])
    assert (tmp_path / "a.csv").read_text() == "image,class,label,score,x0,y0,x1,y1\n"
    assert json.loads((tmp_path / "a.json").read_text())[0]["detections"] == []
    assert Image.open(tmp_path / "a.jpg").format == "JPEG"


def test_pictures_of_files_with_the_same_name(detector, tmp_path):
    for name in ("a/1.png", "a/1.jpg", "a/2.jpg", "b/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (96, 96)).save(tmp_path / name)
    out = tmp_path / "out"
    run(detector, [tmp_path / "a"], [out])
    assert sorted(file.name for file in out.iterdir()) == ["1.jpg.png", "1.png.png", "2.png"]
    run(detector, [tmp_path], [tmp_path / "all"])  # keeps the folders apart, and also finds what was written before
    assert (tmp_path / "all" / "b" / "1.png").exists()
    with pytest.raises(InputError, match=r"has one place for '.*a/1\.png' and '.*b/1\.png'"):
        run(detector, [tmp_path / "a/1.png", tmp_path / "b/1.png"], [tmp_path / "new"])
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("x.txt", r"x\.txt' is not allowed: a folder for pictures, or a file with \.csv, "),
        ("x.png", r"x\.png' is one picture for 4 files; name a folder"),
        (".", r"would overwrite '.*scene0\.png'; name another"),
    ],
)
def test_an_output_that_cannot_be_is_an_error_before_anything_is_read(detector, scenes, out, said):
    before = [file.read_bytes() for file in scenes]
    with pytest.raises(InputError, match=said):
        run(detector, scenes, [scenes[0].parent / out])
    assert [file.read_bytes() for file in scenes] == before
