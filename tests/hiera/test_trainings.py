"""hiera's recipes by `plm train`, from data to model folders, with tiny models and in this process.

tests/hub/test_trainings.py runs each recipe and checks its folder, and tests/plm_core/test_runs.py checks the options.
"""

import csv
import json
import re
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

import plm_core
from hiera import configs, recipes
from hiera.detection import micro_detector
from hiera.mae import MaskedAutoencoderHiera
from hiera.model import Hiera
from hiera.recipes.detecting import open_split
from plm_core import InputError, shapes, weights
from plm_core.runs import train
from plm_core.training.overrides import override

MODEL = ["--model", "hiera_micro_shapes"]
HEADS = tuple(
    f"roi_heads.{name}."
    for name in ("box_predictor.cls_score", "box_predictor.bbox_pred", "mask_predictor.mask_fcn_logits")
)


def settings(**changes):
    return [word for name, value in changes.items() for word in ("--set", f"{name}={value}")]


SHORT = [*MODEL, *settings(batch_size=24, epochs=2, warmup_epochs=0)]
STILL = settings(batch_size=24, lr=1e-12, warmup_epochs=0)  # weights that start somewhere stay there


def losses(out):
    with (out / "curve.csv").open(newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file) if row["loss"]]


def assert_same_body(a, b, atol=1e-9):
    body = [name for name in a if not name.startswith("head.")]
    assert len(body) > 20
    for name in body:
        torch.testing.assert_close(a[name], b[name], atol=atol, rtol=0)


def assert_one_line(result, said):
    assert result.code == 2
    assert result.out == ""
    assert result.err.count("\n") == 1
    assert result.err.startswith("plm: error: ")
    assert said in result.err


@pytest.fixture(scope="module")
def pretrained(pictures, tmp_path_factory):
    """Return the folder that a pretraining has left, which is long enough to learn something."""
    out = tmp_path_factory.mktemp("pretrained") / "out"
    changes = {"epochs": 10, "batch_size": 24, "warmup_epochs": 1}
    train("hiera-pretrain", pictures, out, model="hiera_micro_shapes", settings=changes)
    return out


def test_a_pretraining_leaves_the_encoder_and_the_autoencoder(pretrained):
    config = json.loads((pretrained / "config.json").read_text())
    assert (config["architecture"], config["num_classes"]) == ("hiera_micro_shapes", 0)
    assert config["plm"]["task"] == "image-feature-extraction"
    card = (pretrained / "README.md").read_text()
    assert (
        "`plm train hiera-pretrain DATA --out FOLDER --model hiera_micro_shapes --preset micro --set epochs=10" in card
    )
    decoder = {"decoder_embed_dim": 64, "decoder_depth": 2, "decoder_num_heads": 4, "q_pool": 0}
    whole = MaskedAutoencoderHiera(**{**configs.MICRO_GREY, **decoder})
    weights.load(whole, pretrained / "autoencoder.safetensors")
    assert_same_body(load_file(pretrained / "model.safetensors"), whole.state_dict(), atol=0)


@pytest.mark.parametrize("way", ["folder", "weights"])
def test_a_finetuning_starts_from_a_pretraining(way, plm, pictures, pretrained, tmp_path):
    model = ["--model", pretrained] if way == "folder" else [*MODEL, "--weights", pretrained / "model.safetensors"]
    words = ["hiera-finetune", pictures, *model, "--max-steps", 1, *STILL]
    result = plm("train", *words, "--out", tmp_path / "out")
    assert result.code == 0, result.err
    trained = load_file(tmp_path / "out" / "model.safetensors")
    assert_same_body(load_file(pretrained / "model.safetensors"), trained)
    assert trained["head.fc.weight"].shape == (3, 64)


def test_absolute_win_positions_are_a_keyword_of_the_model(plm, pictures, tmp_path):
    words = ["hiera-pretrain", pictures, *SHORT, "--max-steps", 1, "--model-kwargs", "abs_win_pos_embed=False"]
    assert plm("train", *words, "--out", tmp_path / "out").code == 0
    assert "pos_embed_win" not in load_file(tmp_path / "out" / "model.safetensors")
    assert plm_core.create_model(str(tmp_path / "out"), pretrained=True).pos_embed_win is None


def test_masked_pretraining_learns(pretrained):
    assert losses(pretrained)[-1] < 0.9 * losses(pretrained)[0]


def test_finetuning_learns(plm, pictures, pretrained, tmp_path):
    changes = settings(batch_size=24, epochs=30, warmup_epochs=2, lr=3e-3, smoothing=0, scale="(0.9,1.0)", hflip=0.0)
    words = ["hiera-finetune", pictures, "--out", tmp_path / "out", "--model", pretrained, *changes]
    result = plm("train", *words)
    assert result.code == 0, result.err
    assert losses(tmp_path / "out")[-1] < 0.7 * losses(tmp_path / "out")[0]


def test_a_video_pretraining_is_finetuned(plm, videos, tmp_path):
    first, then = tmp_path / "mae", tmp_path / "classifier"
    short = settings(batch_size=8, epochs=2, warmup_epochs=0)
    result = plm(
        "train", "hiera-pretrain-video", videos / "train", "--out", first, "--model", "hiera_micro_motions", *short
    )
    assert result.code == 0, result.err
    result = plm("train", "hiera-finetune-video", videos, "--out", then, "--model", first, *short)
    assert result.code == 0, result.err
    assert result.scores["val top-1 %"] in (0, 25, 50, 75, 100)
    assert plm_core.create_model(str(then), pretrained=True).pretrained_cfg["label_names"] == ["left", "still"]


def test_videos_without_splits_are_held_out(plm, videos, tmp_path):
    words = ["--out", tmp_path / "out", "--model", "hiera_micro_motions", "--max-steps", 1, *settings(batch_size=4)]
    result = plm("train", "hiera-finetune-video", videos / "train", *words)
    assert result.code == 0, result.err
    assert result.scores["val top-1 %"] in (0, 100)
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert record["found"].endswith("10 % of the videos (1 of 8) held out, seed 0")


def test_a_video_that_is_too_short_repeats_its_last_frame(plm, write_video, tmp_path):
    clip = shapes.Clips("train", size=32, frames=8, count=1)[0]
    write_video(tmp_path / "data" / "still" / "short.mp4", clip.frames[:6])
    model = ["--model", "hiera_micro_motions", "--max-steps", 1]
    result = plm("train", "hiera-pretrain-video", tmp_path / "data", "--out", tmp_path / "out", *model)
    assert result.code == 0, result.err
    for words, said in (
        (settings(pad=None), "1 of 1 videos of .* have fewer than the 8 frames that 8 frames, stride 1 need"),
        (
            settings(pad=None, stride=3),
            "fewer than the 22 frames that 8 frames, stride 3 need: still/short.mp4 \\(6\\)",
        ),
        (settings(pad="mirror"), "pad 'mirror' is not allowed"),
    ):
        result = plm("train", "hiera-pretrain-video", tmp_path / "data", "--out", tmp_path / "refused", *model, *words)
        assert (result.code, (tmp_path / "refused").exists()) == (2, False)
        assert re.search(said, result.err.splitlines()[-1]), result.err
    (tmp_path / "data" / "still" / "short.mp4").write_bytes(b"no video")
    result = plm("train", "hiera-pretrain-video", tmp_path / "data", "--out", tmp_path / "other", *model)
    assert result.code == 2
    assert "short.mp4" in result.err.splitlines()[-1]


@pytest.fixture(scope="module")
def three(objects, tmp_path_factory):
    """Return a folder of `objects` with three classes: the shapes are renumbered, three and three into one."""
    folder = tmp_path_factory.mktemp("three")
    for split in ("train", "val"):
        content = json.loads((objects / split / "instances.json").read_text())
        content["categories"] = [{"id": i, "name": name} for i, name in enumerate(("few", "some", "many"))]
        for annotation in content["annotations"]:
            annotation["category_id"] = (annotation["category_id"] - 1) // 3
        (folder / split).mkdir()
        (folder / split / "images").symlink_to(objects / split / "images")
        (folder / split / "instances.json").write_text(json.dumps(content))
    return folder


def assert_same_but_heads(a, b):
    new = [name for name in a if name.startswith(HEADS)]
    assert len(new) == 6
    assert all(a[name].shape != b[name].shape for name in new)
    for name in a.keys() - set(new):
        torch.testing.assert_close(a[name], b[name], atol=1e-9, rtol=0)


@pytest.mark.parametrize("num_classes", [3, 1, 20])
def test_a_pretrained_detector_gets_new_heads_for_other_classes(num_classes):
    model = plm_core.create_model("hiera_micro_detector", pretrained=True, num_classes=num_classes)
    shipped = plm_core.create_model("hiera_micro_detector", pretrained=True).state_dict()
    assert_same_but_heads(model.state_dict(), shipped)
    assert model.roi_heads.box_predictor.bbox_pred.weight.shape == (4 * (num_classes + 1), 64)


def test_a_detection_starts_from_a_detector_of_other_classes_and_learns(plm, three, tmp_path):
    words = ["hiera-detect", three, "--model", "hiera_micro_detector"]
    result = plm("train", *words, "--out", tmp_path / "still", "--max-steps", 1, *settings(lr=1e-12, warmup_epochs=0))
    assert result.code == 0, result.err
    shipped = plm_core.create_model("hiera_micro_detector", pretrained=True).state_dict()
    assert_same_but_heads(load_file(tmp_path / "still" / "model.safetensors"), shipped)
    changes = settings(batch_size=4, epochs=4, warmup_epochs=0)
    result = plm("train", *words, "--out", tmp_path / "out", *changes)
    assert result.code == 0, result.err
    assert losses(tmp_path / "out")[-1] < 0.7 * losses(tmp_path / "out")[0]
    again = plm_core.create_model(str(tmp_path / "out"), pretrained=True)
    assert (again.num_classes, again.pretrained_cfg["label_names"]) == (3, ["few", "some", "many"])
    other = plm_core.create_model(str(tmp_path / "out"), pretrained=True, num_classes=5).state_dict()
    assert_same_but_heads(other, again.state_dict())


@pytest.mark.parametrize("abs_win", [True, False])
def test_a_detection_starts_from_a_hiera(abs_win, plm, objects, detector_encoder, tmp_path):
    encoder = Hiera(**detector_encoder, abs_win_pos_embed=abs_win, global_pos_size=(6, 6))
    weights.save(encoder, tmp_path / "encoder.safetensors")
    words = ["--weights", tmp_path / "encoder.safetensors", "--model", "hiera_micro_detector", "--max-steps", 1]
    changes = settings(batch_size=4, lr=1e-12, warmup_epochs=0)
    result = plm("train", "hiera-detect", objects, "--out", tmp_path / "out", *words, *changes)
    assert result.code == 0, result.err
    assert {"box mAP@[.5:.95]", "mask mAP@[.5:.95]"} <= result.scores.keys()
    trained = load_file(tmp_path / "out" / "model.safetensors")
    for name, value in encoder.state_dict().items():
        if name.startswith(("blocks.", "patch_embed.")):
            torch.testing.assert_close(trained[f"backbone.trunk.{name}"], value, atol=1e-9, rtol=0)


def test_a_cascade_is_a_setting_that_the_folder_remembers(plm, objects, tmp_path):
    words = ["--model", "hiera_micro_detector", "--max-steps", 1, *settings(batch_size=4, cascade=True)]
    result = plm("train", "hiera-detect", objects, "--out", tmp_path / "out", "--random", *words)
    assert result.code == 0, result.err
    weights.load(micro_detector(cascade=True), tmp_path / "out" / "model.safetensors")
    again = plm_core.create_model(str(tmp_path / "out"), pretrained=True)
    assert len(again.roi_heads.coders) == 3
    assert again.pretrained_cfg["label_names"] == list(shapes.SHAPES)
    assert_same_body(again.state_dict(), load_file(tmp_path / "out" / "model.safetensors"), atol=0)


@pytest.mark.parametrize(
    ("recipe", "model", "words", "said"),
    [
        ("pretrain", "hiera_micro_shapes", ["--weights", "x"], "is not for recipe 'hiera-pretrain', which has no such"),
        ("pretrain", "hiera_micro_shapes", ["--pretrained"], "pretrained True is not for recipe 'hiera-pretrain'"),
        ("pretrain", "test_vit", ["--preset", "micro"], "model 'test_vit' is a VisionTransformer; recipe"),
        ("pretrain", "test_vit", [], "has no preset for model 'test_vit'; choose one: tiny, small, base, base_plus,"),
        ("finetune", "hiera_micro_motions", ["--preset", "micro"], "takes clips; recipe 'hiera-finetune' trains on im"),
        ("detect", "hiera_micro_shapes", ["--preset", "micro"], "is a Hiera; recipe 'hiera-detect' trains a Detector"),
        ("detect", "hiera_micro_detector", ["--transform", "tome:r=8"], "is not for recipe 'hiera-detect'"),
    ],
)
def test_what_does_not_fit_a_recipe_is_named(recipe, model, words, said, plm, pictures, objects, tmp_path):
    data = objects if recipe == "detect" else pictures
    out = tmp_path / "out"
    assert_one_line(plm("train", f"hiera-{recipe}", data, "--out", out, "--model", model, *SHORT[2:], *words), said)
    assert not out.exists()


def test_an_encoder_that_does_not_fit_is_refused(plm, pictures, objects, tmp_path):
    weights.save(Hiera(**{**configs.MICRO_GREY, "embed_dim": 48}, num_classes=0), tmp_path / "wide.safetensors")
    (tmp_path / "text.safetensors").write_text("no")
    words = ["--out", tmp_path / "out", "--weights"]
    result = plm("train", "hiera-finetune", pictures, *words, tmp_path / "wide.safetensors", *SHORT)
    assert_one_line(result, "weights do not fit Hiera")
    detector = ["--model", "hiera_micro_detector"]
    result = plm("train", "hiera-detect", objects, *words, tmp_path / "wide.safetensors", *detector)
    assert_one_line(result, "hiera does not fit this HieraDet: ")
    result = plm("train", "hiera-finetune", pictures, *words, tmp_path / "text.safetensors", *SHORT)
    assert_one_line(result, "text.safetensors is not a readable safetensors file")
    assert not (tmp_path / "out").exists()


def test_objects_of_other_classes_are_named(plm, objects, tmp_path):
    content = json.loads((objects / "val" / "instances.json").read_text())
    content["categories"][0]["name"] = "egg"
    data = tmp_path / "objects"
    (data / "val").mkdir(parents=True)
    (data / "train").symlink_to(objects / "train")
    (data / "val" / "images").symlink_to(objects / "val" / "images")
    (data / "val" / "instances.json").write_text(json.dumps(content))
    result = plm("train", "hiera-detect", data, "--out", tmp_path / "out", "--model", "hiera_micro_detector")
    assert_one_line(result, "circle, egg")


def test_objects_with_boxes_only_train_a_detector_of_boxes(plm, three, tmp_path):
    """It starts from the weights of a detector with masks, and its folder remembers that it has none."""
    data = tmp_path / "boxes"
    for split in ("train", "val"):
        (data / split).mkdir(parents=True)
        (data / split / "images").symlink_to(three / split / "images")
        content = json.loads((three / split / "instances.json").read_text())
        content["annotations"] = [annotation | {"segmentation": []} for annotation in content["annotations"]]
        (data / split / "instances.json").write_text(json.dumps(content))
    words = ["--model", "hiera_micro_detector", "--max-steps", 1, *settings(batch_size=4, lr=1e-12, warmup_epochs=0)]
    result = plm("train", "hiera-detect", data, "--out", tmp_path / "out", *words)
    assert result.code == 0, result.err
    assert "box mAP@[.5:.95]" in result.scores
    assert not any("mask" in name for name in result.scores)
    assert "boxes only" in json.loads((tmp_path / "out" / "training.json").read_text())["found"]
    again = plm_core.create_model(str(tmp_path / "out"), pretrained=True)
    shipped = plm_core.create_model("hiera_micro_detector", pretrained=True).state_dict()
    assert not again.roi_heads.has_mask()
    torch.testing.assert_close(again.state_dict()["rpn.head.cls_logits.weight"], shipped["rpn.head.cls_logits.weight"])
    result = plm("train", "hiera-detect", data, "--out", tmp_path / "more", *words[2:], "--model", tmp_path / "out")
    assert result.code == 0, result.err


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"bbox": [0, 0, 0, 0]}, r"\d+ annotations, all left out \(\d+ with an empty box\)"),
        ({"iscrowd": 1}, r"\d+ annotations, all left out \(\d+ of crowds\)"),
        (None, "no annotations"),
    ],
)
def test_data_without_objects_are_refused_before_the_training(split, change, said, three, tmp_path):
    data = tmp_path / "objs"
    for name in ("train", "val"):
        (data / name).mkdir(parents=True)
        (data / name / "images").symlink_to(three / name / "images")
        content = json.loads((three / name / "instances.json").read_text())
        if name == split:
            content["annotations"] = [a | change for a in content["annotations"]] if change else []
        (data / name / "instances.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"objs' has no objects in {split}/: {said}$"):
        train("hiera-detect", data, tmp_path / "out", model="hiera_micro_detector")
    assert not (tmp_path / "out").exists()


def test_unreadable_images_of_objects(three, tmp_path):
    shutil.copytree(three / "train", tmp_path / "train")
    bad = min((tmp_path / "train" / "images").iterdir())
    bad.write_bytes(b"")
    job = SimpleNamespace(data=str(tmp_path), recipe="hiera-detect", skip_unreadable=False)
    with pytest.raises(InputError, match=rf"1 of \d+ images of '.*' cannot be read, .*: {bad.name} \(not an image\)"):
        open_split(job, tmp_path / "train")
    job.skip_unreadable = True
    data = open_split(job, tmp_path / "train")
    assert len(data) == len(open_split(job, three / "train")) - 1
    assert bad.name not in [data.images[i]["file_name"] for i in data.ids]


def test_the_splits_of_objects_are_found_or_asked_for(plm, three, tmp_path):
    words = ["--out", tmp_path / "out", "--model", "hiera_micro_detector", "--max-steps", 1]
    said = f"data '{three / 'train'}' needs train/ and val/, each with images/ and instances.json"
    assert_one_line(plm("train", "hiera-detect", three / "train", *words), said)
    data = tmp_path / "objs"
    data.mkdir()
    (data / "train").symlink_to(three / "train")
    (data / "valid").mkdir()
    assert_one_line(plm("train", "hiera-detect", data, *words), f"data '{data}' needs train/ and val/, each with")
    assert not (tmp_path / "out").exists()
    (data / "valid").rmdir()
    (data / "valid").symlink_to(three / "val")
    result = plm("train", "hiera-detect", data, *words, *settings(batch_size=4))
    assert result.code == 0, result.err


def test_settings_of_the_right_type_are_accepted():
    """A float may be whole, a whole default may become a fraction, and None is accepted where it is allowed."""
    text = {
        "epochs": "0.5",
        "warmup_epochs": "0.1",
        "lr": "1",
        "layer_decay": "None",
        "clip_grad": "3",
        "milestones": "(0.5, 0.9, 1)",
    }
    config = override(recipes.FINETUNE_IMAGE["base"], {**text, "scale": "(0.5, 1)", "auto_augment": "rand-m7"})
    recipe = config.recipe
    assert (recipe.epochs, recipe.lr, recipe.layer_decay, recipe.clip_grad) == (0.5, 1, None, 3)
    assert (recipe.milestones, config.scale, config.auto_augment) == ((0.5, 0.9, 1), (0.5, 1), "rand-m7")
    assert (config.mixup, recipe.batch_size) == (0.8, 1024)
    assert recipes.FINETUNE_IMAGE["base"].recipe.epochs == 100
