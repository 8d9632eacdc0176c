"""The tensors of every released checkpoint fit our models, and are written as the original has them."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import gazelle
import plm_core
from gazelle.decoder import Decoder
from plm_core import InputError, NotSupported, WeightsError, weights
from plm_core.testing import expand_manifest

MANIFEST = json.loads((Path(__file__).parent / "manifests" / "gazelle.json").read_text())
NAMES = plm_core.list_models("gazelle_dinov2*")


def build(name):
    with torch.device("meta"):
        return plm_core.create_model(name)


def decoder_of(model):
    """Return the decoder of a model, alone."""
    with torch.device("meta"):
        return Decoder(model.backbone.width, (32, 32), model.has_inout, model.dim, len(model.transformer))


def test_the_released_variants_have_names():
    sizes, kinds = ("vitb14", "vitl14"), ("", "_childplay", "_inout")
    assert [f"gazelle_dinov2_{size}{kind}" for size in sizes for kind in kinds] == NAMES
    for name in NAMES:
        assert build(name).has_inout == (name.count("_") > 2)


def entries(whole):
    found = (x for x in MANIFEST if x["variant"].startswith("gazelle") == whole)
    return [pytest.param(x, id=f"{x['variant']}-{x['layout'][:7]}") for x in found]


@pytest.mark.parametrize("entry", entries(whole=False))
def test_names_and_shapes_of_the_backbone(entry):
    expected = expand_manifest(entry["tensors"])
    model = build(
        f"gazelle_dinov2_{'vitb14' if 'vitb' in entry['variant'] or 'base' in entry['variant'] else 'vitl14'}"
    )
    state = model.state_dict() if entry["layout"] == "timm" else weights.export(model, "official")
    prefix = "backbone.model."
    found = {key.removeprefix(prefix): tuple(x.shape) for key, x in state.items() if key.startswith(prefix)}
    assert found == expected


@pytest.mark.parametrize("entry", entries(whole=True))
def test_names_and_shapes_both_ways(entry):
    expected = expand_manifest(entry["tensors"])
    state = {key: torch.empty(shape, device="meta") for key, shape in expected.items()}
    model = build(entry["variant"])
    layout = "official" if any(key.startswith("backbone") for key in state) else "release"
    if layout == "release":
        model = decoder_of(model)
    buffers = {name for name, _ in model.named_buffers()}
    assert sum(x.numel() for key, x in state.items() if key not in buffers) == entry["params"]
    native, report = weights.to_native(model, state)
    assert report.ok, report.message(entry["variant"])
    assert native.keys() == model.state_dict().keys()
    exported = weights.export(model, layout)
    assert {key: tuple(x.shape) for key, x in exported.items()} == expected


def test_registers_go_where_the_hub_has_them(vit):
    torch.manual_seed(0)
    model = gazelle.GazeLLE(vit(reg_tokens=2, no_embed_class=True), dim=16, in_size=70, positions="hub").eval()
    foreign = weights.export(model, "official")
    assert foreign["backbone.model.register_tokens"].shape == (1, 2, 32)
    assert foreign["backbone.model.pos_embed"].shape == (1, 26, 32)
    moved = {**foreign, "backbone.model.pos_embed": torch.rand(1, 26, 32)}  # with a position of the class token
    native, report = weights.to_native(model, moved)
    assert report.ok
    position = moved["backbone.model.pos_embed"]
    torch.testing.assert_close(native["backbone.model.cls_token"], moved["backbone.model.cls_token"] + position[:, :1])
    torch.testing.assert_close(native["backbone.model.pos_embed"], position[:, 1:])


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """Return files of decoders as they are released, with random weights."""
    folder, torch_state = tmp_path_factory.mktemp("release"), torch.random.get_rng_state()
    torch.manual_seed(0)
    decoder = Decoder(768, (32, 32), inout=True)
    torch.random.set_rng_state(torch_state)
    torch.save(decoder.state_dict(), folder / "gazelle_dinov2_vitb14_inout.pt")
    torch.save(decoder.state_dict(), folder / "gazelle_dinov2_vitlb14_inout_childplay.pt")
    save_file(decoder.state_dict(), folder / "renamed.safetensors")
    return folder, decoder


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("gazelle_dinov2_vitb14_inout.pt", "gazelle_dinov2_vitb14_inout"),
        ("gazelle_dinov2_vitlb14_inout_childplay.pt", "gazelle_dinov2_vitb14_childplay"),
        ("renamed.safetensors", "gazelle_dinov2_vitb14_inout"),
    ],
)
def test_a_released_file_goes_onto_a_backbone(released, file, name):
    folder, decoder = released
    model = gazelle.load_release(folder / file, pretrained_backbone=False)
    assert model.pretrained_cfg["architecture"] == name
    for key, value in decoder.state_dict().items():
        assert torch.equal(model.state_dict()[key], value)


def test_a_file_that_is_no_release_is_refused(released, tmp_path):
    _, decoder = released
    state = decoder.state_dict()
    del state["head_token.weight"]
    save_file(state, tmp_path / "part.safetensors")
    with pytest.raises(WeightsError, match="head_token"):
        gazelle.load_release(tmp_path / "part.safetensors", pretrained_backbone=False)
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="no released decoder"):
        gazelle.load_release(tmp_path / "other.safetensors")
    save_file({"linear.weight": torch.zeros(768)}, tmp_path / "flat.safetensors")
    with pytest.raises(WeightsError, match="no released decoder"):
        gazelle.load_release(tmp_path / "flat.safetensors")
    with pytest.raises(InputError, match="name is 'test_vit', a VisionTransformer; the name of a model of gaze"):
        gazelle.load_release(tmp_path / "flat.safetensors", "test_vit")
    with pytest.raises(NotSupported, match="load_release"):
        weights.export(build("gazelle_dinov2_vitb14"), "release")


def test_the_position_grid_of_another_size_is_made_anew(model):
    state = {**model.state_dict(), "pos_embed": torch.zeros(32, 7, 9)}
    model.load_state_dict(state)
    assert model.pos_embed.abs().sum() > 0
    with pytest.raises(RuntimeError, match="pos_embed"):
        model.load_state_dict({**state, "pos_embed": torch.zeros(16, 5, 5)})


@torch.no_grad()
def test_weights_fit_another_size_of_image(tmp_path):
    small = plm_core.create_model("gazelle_micro_shapes", pretrained=True).eval()
    large = plm_core.create_model("gazelle_micro_shapes", pretrained=True, img_size=128).eval()
    images = torch.rand(1, 3, 128, 128)
    torch.testing.assert_close(large(images), small(images))
    weights.save_pretrained(large, tmp_path / "large", license="mit")
    again = plm_core.create_model(f"local-dir:{tmp_path / 'large'}", pretrained=True, img_size=64)
    assert torch.equal(again.pos_embed, small.pos_embed)
    with pytest.raises(WeightsError, match="wrong shape: pos_embed"):
        weights.load(small, {**small.state_dict(), "pos_embed": torch.zeros(8, 9, 9)})


def test_a_config_cannot_make_anything_be_fetched():
    for name, says in (("hf-hub:org/name", "without a source"), ("local-dir:x", "without a source")):
        with pytest.raises(InputError, match=says):
            plm_core.create_model("gazelle_dinov2_vitb14", backbone=name)
    with pytest.raises(InputError, match="backbone is a Linear; its name is expected"):
        plm_core.create_model("gazelle_dinov2_vitb14", backbone=torch.nn.Linear(1, 1))
    with pytest.raises(InputError, match="num_classes is 3"):
        plm_core.create_model("gazelle_dinov2_vitb14", num_classes=3)
