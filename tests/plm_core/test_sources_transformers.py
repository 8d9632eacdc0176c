"""Models of transformers by name, from folders and from a double of the Hub."""

import json
import shutil

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

import plm_core
from plm_core import InputError, MissingDependency, NotSupported, WeightsError
from plm_core.sources import transformers as source
from plm_core.weights import fingerprint

SIZE = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 32}
FILM = {**SIZE, "patch_size": 8, "num_frames": 4, "tubelet_size": 2}
IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def make(name, **options):
    cls = getattr(transformers, name)
    torch.manual_seed(0)
    return cls(cls.config_class(**options)).eval()


@pytest.fixture(scope="module")
def original():
    return make("ViTForImageClassification", **SIZE, patch_size=8, num_labels=5)


@pytest.fixture
def folder(tmp_path, original):
    """A folder with a classifier of five classes and its preprocessing."""
    original.save_pretrained(tmp_path / "vit")
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


def create(source, *args, **options):
    return plm_core.create_model(f"transformers:{source}", *args, **options)


def edit(folder, **entries):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | entries))


# --- models -----------------------------------------------------------------------------------------------------


def test_a_folder(folder, original, capfd):
    model = create(folder, pretrained=True)
    assert model.training  # as timm's models are
    assert fingerprint(model) == fingerprint(original)
    assert torch.equal(model.eval()(IMAGES).logits, original(IMAGES).logits)
    assert fingerprint(create(folder)) != fingerprint(original)
    with torch.device("meta"):
        skeleton = create(folder)
    assert [p.shape for p in skeleton.parameters()] == [p.shape for p in original.parameters()]
    assert capfd.readouterr() == ("", "")  # no bars, no reports


@pytest.mark.parametrize("num_classes", [0, 3, 5])
def test_another_number_of_classes(folder, original, num_classes):
    assert create(folder, num_classes=num_classes).config.num_labels == num_classes
    model = create(folder, pretrained=True, num_classes=num_classes).eval()
    assert torch.equal(plm_core.embed(model, IMAGES), plm_core.embed(original, IMAGES))
    assert model(IMAGES).logits.shape == (2, num_classes or 24)
    if num_classes == 5:
        assert fingerprint(model) == fingerprint(original)


def test_float16_weights_are_read_as_float32(tmp_path, original):
    make("ViTForImageClassification", **SIZE, patch_size=8).half().save_pretrained(tmp_path)
    for pretrained in (True, False):
        assert {p.dtype for p in create(tmp_path, pretrained).parameters()} == {torch.float32}
    assert {p.dtype for p in create(tmp_path, True, dtype=torch.float16).parameters()} == {torch.float16}


def test_the_class_is_the_one_that_the_configuration_names(tmp_path, folder):
    def classes(name, **options):
        shutil.rmtree(tmp_path / "other", ignore_errors=True)
        make(name, **options).save_pretrained(tmp_path / "other")
        created = [create(tmp_path / "other", True), create(tmp_path / "other", num_classes=3)]
        return [type(model).__name__ for model in created]

    assert classes("Dinov2Model", **SIZE, patch_size=8) == ["Dinov2Model", "Dinov2ForImageClassification"]
    assert classes("VideoMAEForPreTraining", **FILM) == ["VideoMAEModel", "VideoMAEForVideoClassification"]
    audio = {**SIZE, "patch_size": 8, "max_length": 32, "num_mel_bins": 16}
    assert classes("ASTForAudioClassification", **audio) == ["ASTForAudioClassification"] * 2
    teacher = "DeiTForImageClassificationWithTeacher"
    assert classes(teacher, **SIZE, patch_size=8) == [teacher, teacher]


def test_a_head_that_the_file_lacks_is_new_only_on_request(tmp_path, caplog):
    bare = make("ViTModel", **SIZE, patch_size=8)
    bare.save_pretrained(tmp_path)
    assert create(tmp_path, True, num_classes=3).classifier.out_features == 3
    assert not caplog.text
    edit(tmp_path, architectures=["ViTForImageClassification"])
    with pytest.raises(
        WeightsError, match=r"do not fit ViTForImageClassification; missing .*: classifier\.bias, classi"
    ):
        create(tmp_path, True)
    edit(tmp_path, architectures=["ViTModel"])
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({k: v for k, v in tensors.items() if "pooler" not in k}, tmp_path / "model.safetensors", {"format": "pt"})
    model = create(tmp_path, True).eval()
    assert "have no pooler.dense.bias, pooler.dense.weight: left random" in caplog.text
    assert torch.equal(plm_core.embed(model, IMAGES), plm_core.embed(bare, IMAGES))


@pytest.mark.parametrize("num_classes", [None, 3])
@pytest.mark.parametrize("change", ["missing", "shape"])
def test_weights_that_do_not_fit(folder, change, num_classes):
    tensors = load_file(folder / "model.safetensors")
    key = "vit.layernorm.weight"
    tensors[key] = torch.ones(7)
    if change == "missing":
        del tensors[key]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsError, match=rf"weights of transformers:.* do not fit .*; missing .* shape: {key}$"):
        create(folder, True, num_classes=num_classes)


def spoil(folder, how):
    if how == "no safetensors":
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    elif how == "cut":
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:100])
    elif how == "unknown":
        edit(folder, model_type="pseudo")
    elif how == "remote code":
        edit(folder, model_type="pseudo", auto_map={"AutoConfig": "code.Config", "AutoModel": "code.Model"})
        (folder / "code.py").write_text("raise SystemExit('code was run')")
    elif how == "no JSON":
        (folder / "config.json").write_text("{")


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("no safetensors", "has no model.safetensors, and pickled weights are not read"),
        ("cut", "cannot get transformers:"),
        ("unknown", "pseudo"),
        ("remote code", "contains custom code"),
        ("no JSON", "cannot get transformers:"),
    ],
)
def test_a_folder_that_cannot_be_read_is_one_line(folder, how, says):
    spoil(folder, how)
    with pytest.raises(WeightsError, match=says) as caught:
        create(folder, True)
    assert "\n" not in str(caught.value)


def test_arguments_that_are_not_accepted(folder, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="transformers:nowhere' is neither a folder nor of the form 'org/name"):
        create("nowhere")
    with pytest.raises(InputError, match=r"cannot be created: .*in_chans"):
        create(folder, True, in_chans=3)
    with pytest.raises(InputError, match="num_classes is -1; 0 or more is allowed"):
        create(folder, num_classes=-1)
    make("SamVisionModel", hidden_size=24, num_hidden_layers=1, num_attention_heads=2).save_pretrained(tmp_path / "sam")
    with pytest.raises(NotSupported, match="has no classifier in transformers, so num_classes has no meaning"):
        create(tmp_path / "sam", num_classes=3)
    monkeypatch.setattr("plm_core.utils.requirements.installed", lambda _: False)
    with pytest.raises(MissingDependency, match="needs transformers"):
        create(folder)


def test_the_hub(folder, original, hub_double, one_line):
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    first = hub_double.add("org/vit", files | {"pytorch_model.bin": b"a pickle", "README.md": b"A card."})
    hub_double.add("org/vit", {"config.json": b"{}"})
    name = f"org/vit@{first}"
    assert create(name).config.num_labels == 5
    assert not [call for call in hub_double.calls if "safetensors" in call or ".bin" in call]
    model = create(name, pretrained=True).eval()
    assert fingerprint(model) == fingerprint(original)
    assert plm_core.transform_for(model)(Image.new("L", (50, 40))).shape == (3, 32, 32)
    assert not [call for call in hub_double.calls if ".bin" in call]
    with one_line(WeightsError, "cannot get org/missing: no such repository"):
        create("org/missing")
    with one_line(WeightsError, "cannot get org/vit@v9: there is no such revision"):
        create("org/vit@v9")
    hub_double.add("org/gated", files, gated=True)
    with one_line(WeightsError, "cannot get org/gated: access is gated"):
        create("org/gated", True)
    hub_double.add("org/pickled", {"config.json": files["config.json"], "pytorch_model.bin": b""})
    with one_line(WeightsError, "cannot get transformers:org/pickled", "has no model.safetensors"):
        create("org/pickled", True)
    hub_double.add("org/empty", {"README.md": b""})
    with one_line(WeightsError, "cannot get transformers:org/empty: it has no config.json"):
        create("org/empty")


def test_offline(one_line):
    with one_line(WeightsError, "cannot get org/name: HF_HUB_OFFLINE is set"):
        create("org/name", True)


# --- preprocessing ----------------------------------------------------------------------------------------------


def test_images(folder, original):
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8))
    expected = transformers.ViTImageProcessor.from_pretrained(folder)(photo, return_tensors="pt")["pixel_values"][0]
    theirs = transformers.ViTForImageClassification.from_pretrained(folder)
    for model in (create(folder), create(folder, True, num_classes=2), theirs):
        preprocess = plm_core.transform_for(model)
        assert torch.equal(preprocess(photo), expected)
    assert plm_core.transform_for(theirs)(photo.convert("L")).shape == (3, 32, 32)
    assert "image_mean" in repr(preprocess)
    with pytest.raises(InputError, match="this ViTForImageClassification is not known: create it with plm_core"):
        plm_core.transform_for(original)


def test_greyscale_models(tmp_path):
    make("ViTModel", **SIZE, patch_size=8, num_channels=1).save_pretrained(tmp_path)
    processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.5], image_std=[0.5])
    processor.save_pretrained(tmp_path)
    model = create(tmp_path)
    assert plm_core.embed(model, plm_core.transform_for(model)(Image.new("RGB", (40, 40)))[None]).shape == (1, 24)
    edit(tmp_path, num_channels=4)
    with pytest.raises(InputError, match="takes 4 channels"):
        plm_core.transform_for(create(tmp_path))


def test_a_folder_without_preprocessing(folder, one_line):
    (folder / "preprocessor_config.json").unlink()
    with one_line(WeightsError, "cannot get the preprocessing of transformers:", " has no preprocessor_config.json"):
        plm_core.transform_for(create(folder))


@pytest.mark.parametrize(("model", "processor"), [("VideoMAE", "VideoMAE"), ("Vivit", "Vivit")])
def test_clips(tmp_path, model, processor):
    options = FILM | ({"tubelet_size": [2, 8, 8]} if model == "Vivit" else {})
    make(f"{model}ForVideoClassification", **options).save_pretrained(tmp_path)
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    getattr(transformers, f"{processor}ImageProcessor")(**size).save_pretrained(tmp_path)
    net = create(tmp_path, True).eval()
    preprocess = plm_core.transform_for(net)
    clip = np.random.default_rng(0).integers(0, 256, (4, 40, 50, 3), dtype=np.uint8)
    forms = (clip, torch.from_numpy(clip).permute(0, 3, 1, 2), [Image.fromarray(frame) for frame in clip])
    clips = [preprocess(form) for form in forms]
    assert clips[0].shape == (4, 3, 32, 32)
    for other in clips[1:]:
        torch.testing.assert_close(other, clips[0])
    assert plm_core.embed(net, clips[0][None]).shape == (1, 24)


def test_sounds(tmp_path):
    audio = {**SIZE, "patch_size": 8, "max_length": 64, "num_mel_bins": 32}
    make("ASTForAudioClassification", **audio).save_pretrained(tmp_path)
    transformers.ASTFeatureExtractor(num_mel_bins=32, max_length=64).save_pretrained(tmp_path)
    model = create(tmp_path, True).eval()
    spectrogram = plm_core.transform_for(model)(np.sin(np.arange(16_000, dtype=np.float32)))
    assert spectrogram.shape == (64, 32)
    assert plm_core.embed(model, spectrogram[None]).shape == (1, 24)


def test_it_is_known_without_the_library(original):
    assert source.is_of_transformers(original)
    assert not source.is_of_transformers(torch.nn.Identity())
