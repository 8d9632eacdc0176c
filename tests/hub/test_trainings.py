"""Every recipe runs by `plm train` on its small model, and leaves a folder that is a model."""

import json

import pytest

import plm_core
from plm_core.hookspecs import Training
from plm_core.registry import registry
from plm_core.runs import train
from plm_core.testing import check_run_folder
from plm_core.utils.references import resolve

RECIPES = {spec.name: spec for spec in registry().declared(Training)}
# One step is enough to run.
SHORT = {
    "images": {"epochs": 2, "batch_size": 8},
    "videos": {"epochs": 2, "batch_size": 4},
    "coco": {"epochs": 1, "batch_size": 4},
    "captions": {"epochs": 2, "batch_size": 8},
    "gazefollow": {"epochs": 2, "batch_size": 8},
    "vat": {"epochs": 2, "batch_size": 8},
    "conversations": {"epochs": 2, "batch_size": 8},
}


@pytest.fixture
def data(request, pictures, videos, objects, captions, conversations, gaze_photos, gaze_videos):
    """Folders by kind. Images and videos with captions are one kind, of which a recipe takes either."""
    if "video" in request.node.callspec.params["name"]:
        captions = request.getfixturevalue("video_captions")
    folders = {"images": pictures, "videos": videos, "coco": objects, "captions": captions}
    folders["conversations"] = conversations
    return {**folders, "gazefollow": gaze_photos, "vat": gaze_videos}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_leaves_a_model_folder(name, data, tmp_path, caplog):
    spec = RECIPES[name]
    start = {"pretrained": False} if "pretrained" in spec.options else {}  # no weights from the Hub
    settings = SHORT[spec.data]
    trained = train(name, data[spec.data], tmp_path / "run", model=spec.micro, settings=settings, max_steps=1, **start)
    check_run_folder(tmp_path / "run", trained.model)
    record = json.loads((tmp_path / "run" / "training.json").read_text())
    assert record["scores"] == trained.scores
    assert record["config"]["recipe"]["epochs"] == SHORT[spec.data]["epochs"]
    assert "warmup_epochs follows epochs" in caplog.text
    assert (tmp_path / "run" / "README.md").read_text().count("plm train " + name) == 1


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_listed_and_says_what_it_takes(name, plm):
    rows = {row[0]: row for row in plm("train", "--list").rows}
    spec = RECIPES[name]
    assert rows[name] == [name, registry().all(Training)[name].distribution, spec.data, spec.model or "", spec.help]


@pytest.mark.parametrize("name", RECIPES)
def test_the_settings_of_a_recipe_are_listed_by_preset(name, plm):
    result = plm("train", name, "--list", "--json")
    rows = {row["setting"]: row for row in json.loads(result.out)}
    configs = resolve(RECIPES[name].configs)
    assert {"epochs", "lr", "batch_size"} < rows.keys()
    assert "recipe" not in rows
    for preset, config in configs.items():
        assert rows["lr"][preset] == repr(config.recipe.lr)


@pytest.mark.parametrize("name", RECIPES)
def test_data_of_another_kind_is_named(name, data, tmp_path, plm):
    kind = RECIPES[name].data
    other = next(path for word, path in data.items() if word != kind)
    result = plm("train", name, other, "--out", tmp_path / "run", "--model", RECIPES[name].micro)
    assert result.code == 2
    assert result.err.count("\n") == 1
    assert f"recipe {name!r} takes" in result.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_has_presets_for_its_models(name):
    spec = RECIPES[name]
    configs = resolve(spec.configs)
    assert set(spec.presets.values()) <= set(configs)
    assert plm_core.create_model(spec.micro) is not None
