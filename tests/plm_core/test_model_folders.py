"""Model folders: by path, with the names of their classes, and with errors that say what is wrong with a folder."""

import json
import os
import re
import shutil

import pytest
import timm
from PIL import Image

import plm_core
from plm_core import InputError, PlmError, WeightsError, model_config, weights
from plm_core.model_config import FORMAT
from plm_core.models import input_of
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


def test_a_network_that_takes_any_size_keeps_the_one_that_was_asked_for(tmp_path):
    model = plm_core.create_model("test_resnet", img_size=(64, 96), num_classes=2)
    assert input_of(model).size == (3, 64, 96)
    weights.save_pretrained(model, tmp_path, license="mit")
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["pretrained_cfg"]["input_size"], config["model_args"].get("img_size")) == ([3, 64, 96], None)
    again = plm_core.create_model(tmp_path, pretrained=True)
    assert plm_core.transform_for(again)(Image.new("L", (200, 200))).shape == (3, 64, 96)
    assert input_of(plm_core.create_model(tmp_path, img_size=32)).size == (3, 32, 32)
    assert input_of(plm_core.create_model("test_resnet")).size == (3, 160, 160)
    for size in ("big", (0, 3), (1, 2, 3), -3):
        with pytest.raises(InputError, match=re.escape(f"img_size {size!r} is not allowed: a whole number from 1, or")):
            plm_core.create_model("test_resnet", img_size=size)


def test_weights_that_were_cut_off_are_named(folder, tmp_path, one_line):
    whole = (folder / "model.safetensors").read_bytes()
    copy = shutil.copytree(folder, tmp_path / "copy")
    for length in (len(whole) - 100, 200, 4):
        (copy / "model.safetensors").write_bytes(whole[:length])
        with one_line(WeightsError, f"{copy}: model.safetensors is not a readable safetensors file: "):
            plm_core.create_model(copy, pretrained=True)


def test_labels_must_fit_the_head(tmp_path):
    with pytest.raises(InputError, match="labels has 3 names; the model has 2 classes"):
        weights.save_pretrained(plm_core.create_model(MODEL, num_classes=2), tmp_path / "x", "mit", labels=list("abc"))
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
        ({"plm": {"format": "x"}}, "has plm.format 'x'; a number is expected"),
        ({"label_names": "ab"}, "has label_names 'ab'; a list of names is expected"),
        ({"num_classes": 3, "label_names": ["cat", "dog"]}, "has 2 labels for 3 classes"),
        ({"num_classes": 3, "label_names": None}, "has num_classes 3 and model_args.num_classes 2; they must agree"),
        ({"num_classes": True}, "has num_classes True; a whole number from 0 to 1000000"),
        ({"num_classes": 10**7}, "has num_classes 10000000; a whole"),
        ({"architecture": ["test_vit"]}, "has architecture ['test_vit']; a name"),
        ({"architecture": "test\x1b[2Jvit"}, "has architecture 'test\\x1b[2Jvit'; a name"),
        ({"label_names": ["cat", 1]}, "has label_names ['cat', 1]; a list of names"),
        ({"label_names": ["cat", "\ud800"]}, "has label_names ['cat', '\\ud800']; a list of names"),
        ({"label_names": ["cat", "a\tb"]}, "has label_names ['cat', 'a\\tb']; a list of names"),
        ({"label_descriptions": {"cat": 1}}, "has label_descriptions {'cat': 1}; an object of texts"),
        ({"model_args": [1]}, "has model_args [1]; an object"),
        ({"model_args": {"embed_dim": 10**9}}, "has model_args.embed_dim 1000000000; a keyword"),
        ({"model_args": {"sizes": [[1e300]]}}, "has model_args.sizes [[1e+300]]; a keyword"),
        ({"model_args": {"pretrained_strict": False}}, "has model_args.pretrained_strict False; a keyword"),
        ({"pretrained_cfg": [1]}, "has pretrained_cfg [1]; an object"),
        ({"pretrained_cfg": {"mean": "0.5"}}, "has pretrained_cfg.mean '0.5'; a list of numbers"),
        ({"pretrained_cfg": {"std": [0.5, 0, 1]}}, "has pretrained_cfg.std [0.5, 0, 1]; a list of numbers above 0"),
        ({"pretrained_cfg": {"input_size": [3, 8]}}, "has pretrained_cfg.input_size [3, 8]; [channels, height, width]"),
        ({"pretrained_cfg": {"interpolation": "cubic"}}, "has pretrained_cfg.interpolation 'cubic'; one of nearest, "),
        (
            {"pretrained_cfg": {"interpolation": "random"}},
            "has pretrained_cfg.interpolation 'random'; one of nearest, ",
        ),
        (
            {"pretrained_cfg": {"crop_pct": 87.5}},
            "has pretrained_cfg.crop_pct 87.5; a number from 0.1 to 2 is expected",
        ),
        (
            {"pretrained_cfg": {"test_crop_pct": 0.001}},
            "has pretrained_cfg.test_crop_pct 0.001; a number from 0.1 to 2",
        ),
        ({"pretrained_cfg": {"pool_size": "7"}}, "has pretrained_cfg.pool_size '7'; [height, width] is expected"),
        ({"pretrained_cfg": {"state_dict": {}}}, "has pretrained_cfg.state_dict {}; no entry"),
        ({"input_size": [0, 8, 8]}, "has input_size [0, 8, 8]; [channels"),  # older files have these fields at the top
    ],
)
def test_a_config_that_cannot_be_used_says_why(changes, said, folder, tmp_path):
    broken = copy(folder, tmp_path / "broken", **changes)
    with pytest.raises(WeightsError) as error:
        plm_core.create_model(str(broken), pretrained=True)
    assert said in str(error.value)
    assert str(broken) in str(error.value)
    assert "\n" not in str(error.value)


def test_every_configuration_of_timm_is_allowed():
    """It has crops of up to 1.15."""
    cfgs = [timm.get_pretrained_cfg(name) for name in timm.list_models(pretrained=True)]
    assert any(cfg.crop_pct > 1 for cfg in cfgs)
    for cfg in cfgs:
        rules = {name: rule for name, rule in model_config.WEIGHTS.items() if getattr(cfg, name, None) is not None}
        values = json.loads(json.dumps({name: getattr(cfg, name) for name in rules}))
        assert not [(cfg.tag, name) for name, (_, holds) in rules.items() if not holds(values[name])]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"architecture": "test_vit2"}, "make no model"),  # the weights are of another model
        ({"model_args": {"colour": "red"}}, "make no model"),
        ({"pretrained_cfg": {"colour": "red"}}, "make no model"),
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
        (b"", "is not JSON (Expecting value"),
        (b"[1]", "is not a JSON object"),
        (b"[" * 100_000, "is not JSON (nested too deeply)"),
        (b'{"num_classes": NaN}', "is not JSON (NaN is no number)"),
        (b'{"num_classes": 1%s}' % (b"0" * 5000), "is not JSON (Exceeds the limit"),
        (b'{"architecture": "\xff"}', "is not UTF-8 (invalid start byte at byte 18)"),
        (b" " * (2**24 + 1), "has more than 16 MiB"),
    ],
    ids=range(7),
)
def test_a_config_that_is_no_object_says_why(content, said, tmp_path, one_line):
    (tmp_path / "config.json").write_bytes(content)
    with one_line(WeightsError, f"cannot get local-dir:{tmp_path}: its config.json {said}"):
        plm_core.create_model(tmp_path)


def test_a_config_of_another_version_of_timm_is_read(folder, tmp_path):
    """The fields of pretrained_cfg at the top, names by number, and fields that the check does not know."""
    config = json.loads((folder / "config.json").read_text())
    old = {"architecture": MODEL, "labels": {"0": "Katze", "1": "Hund"}, "num_classes": 2, "origin_url": None}
    (tmp_path / "config.json").write_text(json.dumps(config["pretrained_cfg"] | old))
    model = plm_core.create_model(tmp_path)
    assert (model.num_classes, model.pretrained_cfg["label_names"]["1"]) == (2, "Hund")


def test_a_pickle_in_a_folder_runs_no_code(folder, tmp_path, one_line):
    copy(folder, tmp_path / "evil")
    marker = tmp_path / "marker"
    (tmp_path / "evil" / "pytorch_model.bin").write_bytes(b"cposix\nsystem\n(S'touch %s'\ntR." % bytes(marker))
    with one_line(WeightsError, "its weights are a pickle of more than tensors, which is refused"):
        plm_core.create_model(tmp_path / "evil", pretrained=True)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("hf-hub:", "model 'hf-hub:' is not allowed: 'hf-hub:org/name[@revision]' is"),
        ("hf_hub:name", "model 'hf-hub:name' is not allowed"),
        ("hf-hub:a/b/c", "model 'hf-hub:a/b/c' is not allowed"),
        ("hf-hub:a/b@1@2", "model 'hf-hub:a/b@1@2' is not allowed"),
        ("hf-hub:\ud800/b", "model 'hf-hub:\\ud800/b' is not allowed"),
        ("local-dir:", "model 'local-dir:' has no path; 'local-dir:FOLDER' is expected"),
        ("local-dir:\0", "cannot get local-dir:\\x00: there is no such folder"),
        ("transformers:", "model 'transformers:' is neither a folder nor of the form 'org/name[@revision]'"),
        ("loacl-dir:x", "model 'loacl-dir:x' has source 'loacl-dir'; 'hf-hub:', 'local-dir:', 'torchvision:', 'trans"),
        (":\x1b[2J", "model ':\\x1b[2J' has source ''"),
        ("./nowhere/x", "no model './nowhere/x': there is no such folder, and no repository can have this name"),
        (__file__, "no model '/"),
        (os.path.relpath(__file__), "it is a file; name its folder, which has a config.json too"),
        ("~no-such-user/x", "no model '~no-such-user/x': there is no such folder"),
        ("x" * 5000, "no model 'xxx"),
        ("", "no model ''"),
        (None, "name is None; the name of a model or the path of a folder is expected"),
        (b"test_vit", "name is b'test_vit'; the name"),
    ],
    ids=range(18),
)
def test_a_name_with_a_typing_error_is_one_line(name, said, one_line):
    with one_line(PlmError, said) as caught:
        plm_core.create_model(name)
    assert len(str(caught.value)) < 300


def test_a_path_may_begin_with_a_tilde(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    for name in ("~/pets", "local-dir:~/pets", folder):
        assert plm_core.create_model(name, pretrained=True).num_classes == 2


@pytest.mark.parametrize(
    "keywords", [{"colour": 1}, {"in_chans": -1}, {"global_pool": "x"}, {"num_classes": "x"}, {"img_size": 0.3}]
)
@pytest.mark.parametrize("pretrained", [False, True])
def test_keywords_that_are_not_accepted_are_one_line(keywords, pretrained, folder, one_line):
    [(name, value)] = keywords.items()
    for model in (MODEL, folder) if not pretrained else (folder,):
        with one_line(InputError, "cannot create ", f"with {name}={value!r}: "):
            plm_core.create_model(model, pretrained, **keywords)


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
