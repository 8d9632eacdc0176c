"""``plm merge``."""

import json
import shutil

import pytest
import torch
from PIL import Image

import plm_core
from plm_core import shapes, weights
from zipit.comparing import ABSENT, numbers_of, scores
from zipit.evaluation import class_scores, joint_accuracy, text_embeddings

CUT = ("--until", "layer3.0.conv1")
ROWS = ["ensemble", "average", "permute", "zipit"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return the folders of two models that know some of the classes of the pictures."""
    made = []
    for seed, labels in enumerate((["circle", "cross"], ["star", "cross"])):
        torch.manual_seed(seed)
        made.append(str(tmp_path_factory.mktemp("models") / "ab"[seed]))
        model = plm_core.create_model("test_resnet", num_classes=2, img_size=32)
        weights.save_pretrained(model, made[-1], license="mit", labels=labels)
    return made


def test_a_partial_merge_is_compared_and_written(plm, folders, pictures, tmp_path):
    out, picture = tmp_path / "merged", tmp_path / "graph.png"
    words = ("--data", pictures, *CUT, "--images", 8, "--batch-size", 4, "--out", out, "--graph", picture, "--json")
    result = plm("merge", *folders, *words)
    assert result.code == 0, result.err
    rows = json.loads(result.out)
    assert [row["model"] for row in rows] == [*folders, *ROWS]
    assert all(0 <= row["accuracy %"] <= 100 and 0 <= row["mean of tasks %"] <= 100 for row in rows)
    one, ensemble, merge = rows[0], rows[2], rows[-1]
    assert ensemble["parameters"] == 2 * one["parameters"] > merge["parameters"] > one["parameters"]
    assert one["GFLOPs"] < merge["GFLOPs"] < ensemble["GFLOPs"] == pytest.approx(2 * one["GFLOPs"], abs=1e-4)
    assert Image.open(picture).format == "PNG"
    again = plm_core.create_model(out, pretrained=True).eval()
    assert sum(p.numel() for p in again.parameters()) == merge["parameters"]
    assert again.pretrained_cfg["label_names"] == ["circle", "cross", "star", "cross"]
    assert json.loads((out / "config.json").read_text())["plm"]["merge"]["until"] == CUT[1]


def test_the_written_model_is_the_one_of_the_method(plm, folders, pictures, tmp_path):
    words = ("--data", pictures, "--images", 8, "--out", tmp_path / "merged", "--method", "average")
    result = plm("merge", folders[0], folders[0], *words, "--json")
    assert result.code == 0, result.err
    rows = json.loads(result.out)
    assert [row["model"] for row in rows] == [f"{folders[0]} (1)", f"{folders[0]} (2)", *ROWS]
    assert rows[3]["accuracy %"] is not None
    assert "mean of tasks %" not in rows[0]
    one, average = plm_core.create_model(folders[0], pretrained=True), plm_core.create_model(tmp_path / "merged", True)
    assert torch.allclose(one.fc.weight, average.fc.weight)


def test_another_method_is_a_further_row(plm, pictures):
    words = ("--data", pictures, "--images", 4, *CUT, "--method", "optimal", "--json")
    result = plm("merge", "random:test_resnet", "random:test_resnet", *words)
    assert [row["model"] for row in json.loads(result.out)][2:] == [*ROWS, "optimal"]
    assert {row["accuracy %"] for row in json.loads(result.out)} == {None}
    assert "note: no accuracy of" in result.err


def test_the_sweep_and_the_corrections(plm, folders, pictures, tmp_path):
    words = ("--data", pictures, "--images", 8, "--repair", "--least-squares", "--json")
    result = plm("merge", *folders, *words, "--method", "weights", "--sweep", tmp_path / "sweep.png", *CUT)
    assert result.code == 0, result.err
    assert Image.open(tmp_path / "sweep.png").format == "PNG"
    assert [row["model"] for row in json.loads(result.out)][3:] == [*ROWS[1:], "weights"]
    plain = json.loads(plm("merge", *folders, "--data", pictures, "--images", 8, *CUT, "--json").out)
    assert [row["GFLOPs"] for row in plain] == [row["GFLOPs"] for row in json.loads(result.out)[:-1]]


def test_models_whose_outputs_are_embeddings_are_judged_by_texts(plm, tmp_path):
    """The vision tower of a micro CLIP stands for two models that share its embeddings."""
    from pe_encoder.configs import MICRO_CLIP

    clip = plm_core.create_model("pe_micro_clip", pretrained=True).eval()
    config = {key: value for key, value in MICRO_CLIP["vision"].items() if key != "image_size"}
    tower = plm_core.create_model("pe_core_t16_384", img_size=48, num_classes=64, **config)
    tower.load_state_dict(clip.visual.state_dict())
    weights.save_pretrained(tower, tmp_path / "tower", license="mit")
    scenes = shapes.Images("heldout", size=48, count=24, objects=(1, 1))
    names = [f"{scene.objects[0].colour} {scene.objects[0].shape}" for scene in scenes]
    for number, (scene, name) in enumerate(zip(scenes, names, strict=True)):
        (tmp_path / "images" / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene.image).save(tmp_path / "images" / name / f"{number}.png")
    folders, words = [tmp_path / "tower"] * 2, ("--data", tmp_path / "images", "--texts", "pe_micro_clip")
    result = plm("merge", *folders, *words, "--images", 8, "--json")
    assert result.code == 0, result.err
    classes = sorted(set(names))
    preprocess = plm_core.transform_for(clip)
    with torch.no_grad():
        images = clip.encode_image(torch.stack([preprocess(Image.fromarray(scene.image)) for scene in scenes]))
    texts = text_embeddings(clip, [f"a photo of a {name}" for name in classes])
    expected = joint_accuracy(class_scores(images, texts), torch.tensor([classes.index(name) for name in names]))
    assert expected > 60
    for row in json.loads(result.out):
        assert row["accuracy %"] == pytest.approx(expected, abs=0.01)


def test_a_model_may_have_the_name_of_a_method(plm, folders, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folders[0], "zipit")
    words = ("--data", pictures, "--images", 8, *CUT, "--json")
    rows, expected = (json.loads(plm("merge", first, folders[1], *words).out) for first in ("zipit", folders[0]))
    assert [row["model"] for row in rows] == ["zipit (1)", folders[1], *ROWS[:-1], "zipit (6)"]
    assert [row["accuracy %"] for row in rows] == [row["accuracy %"] for row in expected]


def test_images_without_classes(plm, folders, pictures):
    flat = next((pictures / "train").iterdir())
    result = plm("merge", *folders, "--data", flat, "--images", 4, *CUT, "--json")
    assert result.code == 0, result.err
    assert {row["accuracy %"] for row in json.loads(result.out)} == {None}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("A", "--data", "D"), "models are 1; two or more are needed"),
        (("A", "B", "--data", "D", "--method", "mean"), "--method 'mean' is not allowed: zipit, permute"),
        (("A", "B", "--data", "D", "--graph", "graph.txt"), "--graph 'graph.txt' does not end in .png"),
        (("A", "B", "--data", "D", "--sweep", "sweep"), "--sweep 'sweep' does not end in .png"),
        (("random:test_resnet", "random:test_resnet", "--data", "D", "--sweep", "s.png"), "--sweep needs --data with"),
        (("A", "B", "--data", "D", "--texts", "hiera_micro_digits"), "'hiera_micro_digits' has no encode_text"),
        (("A", "B", "--data", "nowhere"), "'nowhere' does not exist"),
        (("A", "B", "--data", "D", "--until", "layer3.0.conv2"), "cut before 'layer3.0.conv1'"),
        (("A", "random:test_vit", "--data", "D"), "takes images with size"),
        (("A", "random:hiera_micro_motions", "--data", "D"), "takes videos"),
        (("A", "random:test_resnet", "--data", "D"), "takes images with size"),
        (("A", "B", "--data", "D", "--out", "file"), "--out 'file' is a file"),
        (("A", "B", "--data", "D", "--out", "full"), "would be overwritten"),
        (("A", "B", "--data", "D", "--out", "B"), "is one of the models; another folder is expected"),
        (("A", "B", "--data", "D", "--texts", "pe_micro_clip"), "has embeddings of size 64, and model "),
    ],
)
def test_what_cannot_be_done_is_said_before_the_work(words, message, plm, folders, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "README.md").write_text("mine")
    places = {"A": folders[0], "B": folders[1], "D": str(pictures)}
    result = plm("merge", *(places.get(word, word) for word in words))
    assert result.code == 2
    assert message in result.err
    assert len(result.err.strip().splitlines()) == 1


def test_classes_are_found_in_the_spelling_that_fits_best():
    assert numbers_of([["n01", "n02"], ["Cat", "dog"]], ["dog", "cat", "owl"]) == [1, 0, ABSENT]


def test_a_score_is_the_mean_probability_in_the_models_that_have_the_class():
    one, other = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0.0, 0.0]])
    found = scores([one, other], [[0, 1, ABSENT, ABSENT], [ABSENT, 2, 0, ABSENT]])
    assert torch.allclose(found, torch.tensor([[1 / 2, 5 / 12, 1 / 3, -1]]))
