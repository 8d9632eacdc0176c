"""Folders for the Hub, as `weights.save_pretrained` writes them."""

import json

import pytest
import timm

import hiera
import plm_core
from plm_core import InputError, weights

MICRO = "hiera_micro_digits"


def test_save_pretrained_comes_back_by_both_doors(micro, tmp_path):
    folder = tmp_path / "folder"
    model = plm_core.create_model(MICRO, num_classes=4, in_chans=1)
    weights.save_pretrained(model, folder, license="Apache-2.0", card="Trained on nothing.")
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "config.json", "README.md"}
    for create in (plm_core.create_model, timm.create_model):
        back = create(f"local-dir:{folder}", pretrained=True)
        assert (back.num_classes, back.in_chans) == (4, 1)
        assert weights.fingerprint(back) == weights.fingerprint(model)
    card = (folder / "README.md").read_text()
    assert 'license: "apache-2.0"' in card  # as the Hub spells it
    assert "Trained on nothing." in card


def test_save_pretrained_does_not_pass_on_another_license(tmp_path):
    model = plm_core.create_model(MICRO)
    model.pretrained_cfg |= {"license": "cc-by-nc-4.0", "description": "of the weights it may have started from"}
    weights.save_pretrained(model, tmp_path, license="mit")
    config = json.loads((tmp_path / "config.json").read_text())["pretrained_cfg"]
    assert (config["license"], config["description"]) == ("mit", None)


@pytest.mark.parametrize(
    ("make", "license", "part"),
    [
        (
            lambda: hiera.Hiera(input_size=(64, 64), stages=(1, 1), mask_unit_size=(2, 2), q_pool=1),
            "mit",
            "create_model",
        ),
        (lambda: plm_core.create_model(MICRO, features_only=True), "mit", "features_only"),
        (lambda: plm_core.create_model(MICRO), "", "license is empty"),
    ],
)
def test_save_pretrained_refuses_before_it_writes(make, license, part, tmp_path, one_line):
    with one_line(InputError, part):
        weights.save_pretrained(make(), tmp_path / "folder", license)
    assert not (tmp_path / "folder").exists()
