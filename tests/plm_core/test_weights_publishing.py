"""Folders for the Hub, as `weights.save_pretrained` writes them."""

import json

import pytest
import timm

import hiera
import plm_core
from plm_core import InputError, weights
from plm_core.errors import FileError, WeightsError
from plm_core.hub import check_folder

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


def test_a_license_that_nobody_names_is_that_of_the_start(tmp_path, caplog):
    model = plm_core.create_model(MICRO)
    for start, license, why in (
        ("CC-BY-NC-4.0", "cc-by-nc-4.0", "that of the weights that the model may have started from"),
        (None, "unknown", "nobody has named one"),
    ):
        caplog.clear()
        model.pretrained_cfg |= {"license": start}
        weights.save_pretrained(model, tmp_path)
        assert f'license: "{license}"' in (tmp_path / "README.md").read_text()
        assert json.loads((tmp_path / "config.json").read_text())["pretrained_cfg"]["license"] == license
        line = f"license of the saved weights: {start or license}, {why}; save_pretrained(license=...) names it"
        assert [record.message for record in caplog.records] == [line]
    caplog.clear()
    weights.save_pretrained(model, tmp_path, "mit")
    assert caplog.records == []


def test_a_model_folder_is_replaced_as_a_whole(tmp_path, monkeypatch, one_line, listing):
    weights.save_pretrained(plm_core.create_model(MICRO, num_classes=3), tmp_path, "mit", labels=["a", "b", "c"])
    before, model = listing(tmp_path), plm_core.create_model(MICRO, num_classes=7)
    save_config = timm.models._hub.save_config_for_hf

    def full(*args, **kwargs):
        save_config(*args, **kwargs)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(timm.models._hub, "save_config_for_hf", full)
        with one_line(FileError, "cannot write", "config.json", "No space left on device"):
            weights.save_pretrained(model, tmp_path, "mit")
    assert listing(tmp_path) == before
    with one_line(WeightsError, "on the meta device"):
        weights.save_pretrained(model.to("meta"), tmp_path, "mit")
    assert listing(tmp_path) == before


def test_files_of_something_else_are_not_overwritten(tmp_path, one_line, listing):
    model = plm_core.create_model(MICRO, num_classes=3)
    (tmp_path / "README.md").write_text("precious")
    (tmp_path / "data.csv").write_text("1")
    for config in (None, '{"model_type": "vit"}', "{"):
        if config:
            (tmp_path / "config.json").write_text(config)
        before = listing(tmp_path)
        with one_line(
            InputError, "has files that are not those of a model folder and would be overwritten (", "README"
        ):
            weights.save_pretrained(model, tmp_path, "mit")
        assert listing(tmp_path) == before
    for name in ("README.md", "config.json"):
        (tmp_path / name).unlink()
    weights.save_pretrained(model, tmp_path, "mit")
    (tmp_path / "config.json").unlink()  # as if the process had been killed while it replaced the files
    weights.save_pretrained(model, tmp_path, "mit")
    assert {path.name for path in tmp_path.iterdir()} == {"README.md", "config.json", "data.csv", "model.safetensors"}


def test_all_files_of_a_folder_can_be_read_by_the_same_people(micro, tmp_path):
    weights.save_pretrained(micro, tmp_path, "mit")
    weights.save(micro, tmp_path / "other.safetensors")
    (tmp_path / "plain").touch()
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1


def test_the_names_of_the_old_classes_do_not_stay(micro, tmp_path):
    weights.save_pretrained(micro, tmp_path, "mit", labels=list("abcdefghij"))
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["label_names"] == list("abcdefghij")
    assert config["pretrained_cfg"]["label_names"] is None
    assert plm_core.create_model(tmp_path, pretrained=True).pretrained_cfg["label_names"] == list("abcdefghij")
    weights.save_pretrained(micro, tmp_path, "mit")
    assert plm_core.create_model(tmp_path, pretrained=True).pretrained_cfg["label_names"] == list("0123456789")


def test_a_link_out_of_the_folder_is_not_published(micro, tmp_path, one_line):
    folder, secret = tmp_path / "folder", tmp_path / "secret"
    weights.save_pretrained(micro, folder, "mit")
    check_folder(folder)
    secret.write_text("---\nlicense: mit\n---\nsecret")
    for name in ("README.md", "training.json"):
        aside = (folder / name).rename(folder / "aside") if (folder / name).exists() else None
        (folder / name).symlink_to("../secret")
        with one_line(InputError, f"{folder / name} is a link out of the folder, to {secret}"):
            check_folder(folder)
        (folder / name).unlink()
        if aside:
            (folder / name).symlink_to("aside")  # a link inside the folder may stay
    check_folder(folder)
    (tmp_path / "by another name").symlink_to(folder)
    check_folder(tmp_path / "by another name")
