"""The accuracy of a classifier on labelled images, whose classes are matched by name."""

import json
import shutil

import pytest
import torch
from timm.data import ImageNetInfo

import plm_core
from plm_core.prediction import evaluate, labelled_data, predict
from plm_core.prediction.evaluation import match_classes
from plm_core.video import per_clip, read_clip

MICRO = "hiera_micro_shapes"


@pytest.fixture(scope="module")
def shapes():
    return plm_core.create_model(MICRO, pretrained=True).eval()


@pytest.fixture(scope="module")
def imagenet():
    return plm_core.create_model("test_vit").eval()


def test_classes_are_matched_by_name_in_any_order_and_number(shapes, pictures):
    names = shapes.pretrained_cfg["label_names"]
    assert match_classes(shapes, names[::-1]) == list(range(len(names)))[::-1]
    assert match_classes(shapes, ["Star", "CIRCLE"]) == [names.index("star"), names.index("circle")]
    result = evaluate(shapes, labelled_data(pictures), batch_size=4)
    assert (result.images, result.num_classes) == (9, len(names))
    right = [found.classes[0].label == found.path.parent.name for found in predict(shapes, [pictures / "val"])]
    assert result.scores["top-1 %"] == pytest.approx(100 * sum(right) / 9)
    assert result.scores["top-5 %"] >= result.scores["top-1 %"] > 100 / 8
    assert f"9 images of 3 classes of {pictures / 'val'}" in result.data


def test_classes_of_an_imagenet_by_synset_and_in_words(imagenet):
    info = ImageNetInfo()
    for number in (0, 1, 999):
        words = info.index_to_description(number)
        for name in (info.label_names()[number], words, words.partition(",")[0].upper().replace(" ", "_")):
            assert match_classes(imagenet, [name]) == [number]
    with pytest.raises(
        plm_core.InputError, match=r"of the 2 of the data 1 are not among them, or may be several: crane"
    ):
        match_classes(imagenet, ["tench", "crane"])  # a bird, and what lifts


def test_classes_without_names_are_known_by_their_numbers():
    model = plm_core.create_model("test_vit", num_classes=3).eval()
    assert match_classes(model, ["2", "0"]) == [2, 0]
    with pytest.raises(plm_core.InputError, match=r"has 3 classes \(0, 1, 2\); of the 2 of the data 1 .*: 3$"):
        match_classes(model, ["2", "3"])


def test_the_command_agrees_with_the_training(plm, pictures, tmp_path):
    words = ["--model", MICRO, "--set", "batch_size=16", "--max-steps", 1]
    assert plm("train", "finetune", pictures, "--out", tmp_path / "run", *words).code == 0
    score = json.loads((tmp_path / "run" / "training.json").read_text())["scores"]["val top-1 %"]
    result = plm("evaluate", tmp_path / "run", pictures, "--threads", 1)
    assert result.rows == [["top-1 %", f"{round(score, 4):g}"]]  # three classes have no top 5
    assert result.err.endswith("; the model has 3 classes\n")
    seen = plm("evaluate", tmp_path / "run", pictures / "train")
    assert "note: the model was trained on 48 of these 48 images, as its training.json says" in seen.err
    assert plm("evaluate", MICRO, pictures, "--json").code == 0


def test_a_video_model_sees_the_middle_of_each_video_as_after_its_training(plm, videos):
    model = plm_core.create_model("hiera_micro_motions", pretrained=True).eval()
    data, seen = labelled_data(videos), []
    preprocess = per_clip(plm_core.transform_for(model))
    model.register_forward_hook(lambda model, inputs, output: seen.append((*inputs, output)))
    for stride in (None, 2):
        seen.clear()
        result = evaluate(model, data, batch_size=3, stride=stride)
        x, logits = (torch.cat(parts) for parts in zip(*seen, strict=True))
        clips = [preprocess(read_clip(path, frames=8, stride=stride or 1)) for path in data.items]
        assert torch.equal(x, torch.stack(clips))
        best = [model.pretrained_cfg["label_names"][number] for number in logits.argmax(1)]
        right = sum(name == data.classes[label] for name, label in zip(best, data.labels, strict=True))
        assert result.scores["top-1 %"] == 100 * right / 4
        assert f"4 videos of 2 classes of {videos / 'val'}" in result.data
    command = plm("evaluate", "hiera_micro_motions", videos, "--stride", 2, "--json")
    assert json.loads(command.out)[0] == {"metric": "top-1 %", "score": result.scores["top-1 %"]}


@pytest.mark.parametrize(
    ("command", "target"),
    [("train", "runs.train"), ("predict", "prediction.predict"), ("evaluate", "prediction.evaluate")],
)
def test_threads_are_those_of_the_computation(command, target, plm, pictures, tmp_path, monkeypatch):
    import torch

    used = []
    monkeypatch.setattr(f"plm_core.{target}", lambda *args, **kwargs: used.append(torch.get_num_threads()))
    before = torch.get_num_threads()
    words = ["finetune", pictures, "--out", tmp_path / "out"] if command == "train" else [MICRO, pictures]
    for threads in ([], ["--threads", before + 2]):
        try:
            plm(command, *words, *threads)
        except (TypeError, AttributeError):  # the replaced function returned nothing
            assert command != "train"
    assert used == [before, before + 2]
    assert torch.get_num_threads() == before


def test_errors_are_one_line(plm, pictures, videos, tmp_path):
    root = shutil.copytree(pictures, tmp_path / "data")
    bad = min((root / "val").rglob("*.png"))
    bad.write_bytes(bad.read_bytes()[:-30])
    for words, said in (
        ((MICRO, root), "1 of 9 images of"),
        ((MICRO, videos), "is for image-classification, but data "),
        ((MICRO, pictures, "--stride", 2), "stride is for video-classification; model 'hiera_micro_shapes' is for"),
        (
            ("hiera_micro_detector", pictures),
            "is for object-detection; accuracies are computed for image-classification",
        ),
        (("hiera_micro_digits", pictures), "model 'hiera_micro_digits' has 10 classes (0, 1, 2, 3, ...); of the 3 of"),
        (("hiera_micro_motions", pictures), "is for video-classification, but data "),
    ):
        result = plm("evaluate", *words)
        assert (result.code, result.err.count("\n")) == (2, 1)
        assert said in result.err
    assert "8 images of 3 classes" in plm("evaluate", MICRO, root, "--skip-unreadable").err


def test_a_model_that_trains_is_refused(pictures):
    with pytest.raises(plm_core.InputError, match=r"in training mode: call model\.eval\(\) first"):
        evaluate(plm_core.create_model(MICRO), labelled_data(pictures))
