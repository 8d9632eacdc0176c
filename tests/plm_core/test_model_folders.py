"""Model folders: by path, with the names of their classes, and with errors that say what is wrong with a folder."""

import json
import shutil

import pytest

import plm_core
from plm_core import InputError, PlmError, WeightsError, weights
from plm_core.hub import FORMAT
from plm_core.shapes import SHAPES

MODEL = "test_vit"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "pets"
    model = plm_core.create_model(MODEL, num_classes=2)
    weights.save_pretrained(model, folder, license="MIT", labels=("cat", "dog"), about={"recipe": "finetune"})
    return folder


def copy(folder, to, **changes):
    """Copy the config of a model folder with some of its keys changed, and an empty file of weights."""
    to.mkdir()
    config = json.loads((folder / "config.json").read_text()) | changes
    (to / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return to


def test_a_folder_is_a_model_by_its_path_alone(folder, monkeypatch):
    model = plm_core.create_model(str(folder), pretrained=True)
    assert model.pretrained_cfg["label_names"] == ["cat", "dog"]
    monkeypatch.chdir(folder.parent)
    for path in ("pets", "./pets", "local-dir:pets"):
        again = plm_core.create_model(path, pretrained=True)
        assert weights.fingerprint(again) == weights.fingerprint(model)


def test_a_folder_without_a_config_is_not_taken_for_a_repository(folder, tmp_path, monkeypatch):
    (tmp_path / "runs" / "empty").mkdir(parents=True)
    copy(folder, tmp_path / "runs" / "bare")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match=r"local-dir:runs/empty: it has no config\.json"):
        plm_core.create_model("runs/empty", pretrained=True)
    with pytest.raises(WeightsError, match=r"local-dir:runs/bare: it has no model\.safetensors"):
        plm_core.create_model("runs/bare", pretrained=True)
    assert plm_core.create_model("runs/bare").num_classes == 2


def test_a_model_of_the_registry_comes_before_a_folder_of_its_name(folder, tmp_path, monkeypatch):
    copy(folder, tmp_path / MODEL)
    monkeypatch.chdir(tmp_path)
    assert plm_core.create_model(MODEL).num_classes == 1000
    assert plm_core.create_model(f"./{MODEL}").num_classes == 2


def test_the_config_says_what_the_folder_is(folder):
    config = json.loads((folder / "config.json").read_text())
    assert config["plm"] == {"format": FORMAT, "task": "image-classification", "recipe": "finetune"}
    card = (folder / "README.md").read_text()
    assert 'pipeline_tag: "image-classification"' in card


def test_the_names_of_classes_that_a_new_head_no_longer_has_are_not_kept(tmp_path):
    model = plm_core.create_model("hiera_micro_shapes", pretrained=True)
    for name in ("shapes", "leaves"):
        weights.save_pretrained(model, tmp_path / name, "mit")
        model.reset_classifier(model.num_classes)
    kept = [
        plm_core.create_model(str(tmp_path / name)).pretrained_cfg.get("label_names") for name in ("shapes", "leaves")
    ]
    assert kept == [list(SHAPES), None]


def test_labels_must_fit_the_head(tmp_path):
    with pytest.raises(InputError, match="labels has 3 names; the model has 2 classes"):
        weights.save_pretrained(plm_core.create_model(MODEL, num_classes=2), tmp_path / "x", "mit", labels="abc")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"plm": {"format": FORMAT + 1}}, "a newer version of plm-core wrote it"),
        (
            {"architecture": None, "model_type": "vit"},
            "it holds a model of transformers (vit); create it as 'transformers:",
        ),
        ({"architecture": None}, "not timm's (no 'architecture')"),
        ({"plm": {"format": "x"}}, "has format 'x'; a number is expected"),
        ({"label_names": "ab"}, "has label_names 'ab'; a list of names is expected"),
        ({"num_classes": 3, "label_names": ["cat", "dog"]}, "has 2 labels for 3 classes"),
    ],
)
def test_a_config_that_cannot_be_used_says_why(changes, said, folder, tmp_path):
    broken = copy(folder, tmp_path / "broken", **changes)
    with pytest.raises(WeightsError) as error:
        plm_core.create_model(str(broken), pretrained=True)
    assert said in str(error.value)
    assert str(broken) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"architecture": "test_vit2"}, "make no model"),  # the weights are of another model
        ({"model_args": {"colour": "red"}}, "make no model"),
        ({"model_args": [1]}, "make no model"),
        ({"pretrained_cfg": [1]}, "make no model"),
        ({"architecture": "hiera_micro_dig"}, "did you mean 'hiera_micro_digits'"),
    ],
)
def test_a_folder_whose_parts_do_not_fit_is_one_line(changes, said, folder, tmp_path, one_line):
    broken = copy(folder, tmp_path / "broken", **changes)
    shutil.copy(folder / "model.safetensors", broken)
    with one_line(PlmError, said):
        plm_core.create_model(str(broken), pretrained=True)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no such folder"),
        ("notes.txt", "it has no config.json"),
        ("checkpoint-5/trainer_state.json", "its training is not finished; the same plm train command with --resume"),
        ("model.safetensors", "its training is not finished"),
    ],
)
def test_a_folder_that_is_not_a_model_says_what_it_lacks(content, said, tmp_path):
    if content:
        (tmp_path / "run" / content).parent.mkdir(parents=True)
        (tmp_path / "run" / content).touch()
    with pytest.raises(WeightsError, match=said):
        plm_core.create_model(f"local-dir:{tmp_path / 'run'}", pretrained=True)
