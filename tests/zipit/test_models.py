"""Merges as models of the hub: saved, and made again by name from a folder and from a repository."""

import json

import pytest
import timm
import torch

import plm_core
import zipit
from plm_core import InputError, UnknownName, weights
from plm_core.hub import push
from zipit.models import merged


def nets(*classes, name="test_resnet", **options):
    made = []
    for seed, count in enumerate(classes):
        torch.manual_seed(seed)
        made.append(timm.create_model(name, num_classes=count, **options).eval())
    return made


@pytest.fixture(scope="module")
def batch():
    return torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def partial(batch):
    return zipit.merge(nets(3, 4), [batch], until="layer3.0.conv1")


def same(one, other, x):
    with torch.no_grad():
        return all(torch.equal(a, b) for a, b in zip(one(x), other(x), strict=True))


@pytest.mark.parametrize("create", [timm.create_model, plm_core.create_model])
def test_a_partial_merge_comes_back_from_its_folder(create, partial, batch, tmp_path):
    weights.save_pretrained(partial, tmp_path, license="mit")
    again = create(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert [output.shape[1] for output in again(batch)] == [3, 4]
    assert same(partial, again, batch)
    assert again.num_classes == 7


def test_a_partial_merge_that_came_back_is_saved_again(partial, batch, tmp_path):
    weights.save_pretrained(partial, tmp_path / "one", license="mit")
    again = plm_core.create_model(tmp_path / "one", pretrained=True).eval()
    weights.save_pretrained(again, tmp_path / "two", license="mit")
    one, two = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("one", "two"))
    assert one["model_args"] == two["model_args"]
    assert same(partial, plm_core.create_model(tmp_path / "two", pretrained=True).eval(), batch)


def test_a_partial_merge_comes_back_from_the_hub(partial, batch, tmp_path, hub_double):
    weights.save_pretrained(partial, tmp_path, license="mit")
    hub_double.add("org/merged", {path.name: path for path in tmp_path.iterdir()})
    assert same(partial, timm.create_model("hf-hub:org/merged", pretrained=True).eval(), batch)


def test_a_partial_merge_is_pushed(partial, batch, tmp_path, hub_double):
    weights.save_pretrained(partial, tmp_path, license="mit")
    push(tmp_path, "org/pushed")
    assert same(partial, plm_core.create_model("hf-hub:org/pushed", pretrained=True).eval(), batch)


def test_heads_that_gather_merged_features_come_back(batch, tmp_path):
    """Before a batch norm the weights of a head cannot take the merged features by themselves."""
    whole = zipit.merge(nets(3, 3), [batch], until="bn1")
    assert hasattr(whole.heads[0], "unmerge")
    weights.save_pretrained(whole, tmp_path, license="mit")
    assert same(whole, plm_core.create_model(tmp_path, pretrained=True).eval(), batch)


def test_a_transformer_keeps_its_size(tmp_path):
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    made = nets(3, 3, name="vit_tiny_patch16_224", img_size=32, depth=2, embed_dim=24, num_heads=2)
    whole = zipit.merge(made, [x], until="blocks.1")
    weights.save_pretrained(whole, tmp_path, license="mit")
    again = plm_core.create_model(tmp_path, pretrained=True).eval()
    assert same(whole, again, x)
    assert plm_core.models.input_of(again).size == (3, 32, 32)


def test_the_preprocessing_and_the_labels_are_those_of_the_models(batch):
    first, second = nets(2, 2)
    for model, labels in ((first, ["cat", "dog"]), (second, ["owl", "jay"])):
        model.pretrained_cfg = {**model.pretrained_cfg, "label_names": labels, "license": "mit", "crop_pct": 0.5}
    whole = zipit.merge([first, second], [batch], until="layer3.0.conv1")
    assert whole.pretrained_cfg["label_names"] == ["cat", "dog", "owl", "jay"]
    assert whole.pretrained_cfg["license"] == "mit"
    assert plm_core.models.input_of(whole) == plm_core.models.input_of(first)


@pytest.mark.parametrize("method", ["zipit", "identity"])
def test_a_whole_merge_is_saved_as_the_model_that_it_is(method, batch, tmp_path):
    whole = zipit.merge(nets(3, 3), [batch], method)
    weights.save_pretrained(whole, tmp_path, license="mit", labels=["a", "b", "c"])
    again = plm_core.create_model(tmp_path, pretrained=True).eval()
    assert type(again) is type(whole)
    assert torch.equal(again(batch), whole(batch))
    assert again.pretrained_cfg["label_names"] == ["a", "b", "c"]


@pytest.mark.parametrize("method", ["zipit", "identity"])
def test_a_whole_merge_has_no_labels_and_no_license_that_are_those_of_one_model(method, batch):
    first, second = nets(2, 2)
    first.pretrained_cfg = {**first.pretrained_cfg, "label_names": ["cat", "dog"], "license": "mit"}
    second.pretrained_cfg = {**second.pretrained_cfg, "label_names": ("cat", "owl"), "license": "cc-by-nc-4.0"}
    whole = zipit.merge([first, second], [batch], method)
    assert whole.pretrained_cfg["label_names"] is None
    assert whole.pretrained_cfg["license"] is None
    assert first.pretrained_cfg["license"] == "mit"
    second.pretrained_cfg = {**second.pretrained_cfg, "label_names": ("cat", "dog")}
    assert zipit.merge([first, second], [batch], method).pretrained_cfg["label_names"] == ["cat", "dog"]


def test_models_in_training_mode_leave_no_dropout_behind(batch):
    made = nets(3, 3, drop_rate=0.9)
    expected = zipit.merge(made, [batch], until="layer3.0.conv1")
    for model in made:
        model.train()
    assert same(zipit.merge(made, [batch], until="layer3.0.conv1"), expected, batch)
    assert all(model.training for model in made)


def test_models_that_have_no_name_are_merged_and_not_saved(resnets, images, tmp_path):
    whole = zipit.merge(resnets(), [images], until="layer3.0.conv1")
    with pytest.raises(InputError, match="cannot be created again by name"):
        weights.save_pretrained(whole, tmp_path)


def test_a_number_of_classes_that_the_heads_do_not_have():
    with pytest.raises(InputError, match="num_classes is 7; the heads of a merged model have 20 classes"):
        plm_core.create_model("zipit_merged", num_classes=7)


def test_a_config_fetches_nothing():
    with pytest.raises(InputError, match="without a source is expected"):
        merged([("hf-hub:org/name", {})], "fc")


def test_a_config_with_an_unknown_model(partial, tmp_path):
    weights.save_pretrained(partial, tmp_path, license="mit")
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"test_resnet"', '"test_resnot"'))
    with pytest.raises(UnknownName, match="test_resnot"):
        plm_core.create_model(tmp_path, pretrained=True)
