"""Models of torchvision by name: their weights, classifier, preprocessing and embedding. Downloads come from a file."""

import copy
import hashlib
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import models

import plm_core
from plm_core import InputError, NotSupported, UnknownName, WeightsError
from plm_core.embedding import embed_and_classify
from plm_core.sources import torchvision as source

TINY = "shufflenet_v2_x0_5"
IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def create(name, *args, **options):
    return plm_core.create_model(f"torchvision:{name}", *args, **options).eval()


@pytest.fixture
def published(monkeypatch, tmp_path):
    """Return a function that publishes weights of the tiny model, as torchvision does with its own."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    entry = models.get_model_weights(TINY).DEFAULT

    def publish(tensors, digest=None):
        path = tmp_path / "weights.pth"
        torch.save(tensors, path)
        digest = digest or hashlib.sha256(path.read_bytes()).hexdigest()[:8]
        path = path.rename(tmp_path / f"weights-{digest}.pth")
        monkeypatch.setattr(entry.value, "url", path.as_uri())

    return publish


# --- names and weights ------------------------------------------------------------------------------------------


def test_weights_are_those_that_torchvision_publishes(published, capsys):
    original = create(TINY)
    published(original.state_dict())
    for name in (TINY, f"{TINY}.IMAGENET1K_V1", f"{TINY}.DEFAULT"):
        model = create(name, pretrained=True)
        assert plm_core.weights.fingerprint(model) == plm_core.weights.fingerprint(original)
        assert model.plm_origin == source.Origin(TINY, "IMAGENET1K_V1", "fc")
    assert capsys.readouterr().out == ""  # torch prints what it downloads, which would end up in --json
    assert plm_core.weights.fingerprint(create(TINY)) != plm_core.weights.fingerprint(original)


@pytest.mark.parametrize("num_classes", [0, 1, 7, 1000])
@pytest.mark.parametrize(("name", "width"), [(TINY, 1024), ("squeezenet1_1", 512)])
def test_another_number_of_classes(name, width, num_classes, monkeypatch):
    """The classifier is replaced and everything else is kept, also in SqueezeNet, where it is a convolution."""
    torch.manual_seed(0)
    original = create(name)
    monkeypatch.setattr(source, "_fetch", lambda *_: None)
    monkeypatch.setattr(models._api.WeightsEnum, "get_state_dict", lambda *_, **__: original.state_dict())
    for pretrained in (True, False):
        model = create(name, pretrained, num_classes=num_classes)
        assert model(IMAGES).shape == (2, num_classes or width)
        assert isinstance(model.get_submodule(model.plm_origin.classifier), nn.Identity) == (num_classes == 0)
        kept = {key for key in model.state_dict() if not key.startswith(model.plm_origin.classifier)}
        same = [torch.equal(model.state_dict()[key], original.state_dict()[key]) for key in kept]
        assert all(same) == pretrained
        if pretrained and num_classes == 1000:
            assert torch.equal(model(IMAGES), original(IMAGES))


def test_a_model_without_classifier_keeps_its_embedding(monkeypatch):
    torch.manual_seed(0)
    original = create(TINY)
    monkeypatch.setattr(source, "_fetch", lambda *_: None)
    monkeypatch.setattr(models._api.WeightsEnum, "get_state_dict", lambda *_, **__: original.state_dict())
    headless = create(TINY, pretrained=True, num_classes=0)
    with torch.no_grad():
        torch.testing.assert_close(plm_core.embed(headless, IMAGES), plm_core.embed(original, IMAGES))


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("resnet5", UnknownName, "no model of torchvision named 'resnet5'; did you mean 'resnet50'"),
        ("ResNet50", UnknownName, "no model of torchvision named 'ResNet50'"),
        ("", UnknownName, "no model of torchvision named ''"),
        ("quantized_resnet50", UnknownName, "named 'quantized_resnet50'"),
        ("resnet50.IMAGENET1K_V3", UnknownName, "no weights of torchvision:resnet50 named 'IMAGENET1K_V3'; did you me"),
    ],
)
def test_unknown_names(name, error, says):
    with pytest.raises(error, match=says) as caught:
        create(name)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_created():
    with pytest.raises(NotSupported, match="torchvision:lraspp_mobilenet_v3_large is no classifier"):
        create("lraspp_mobilenet_v3_large", num_classes=3)
    with pytest.raises(InputError, match=r"torchvision:resnet18 cannot be created: .*in_chans"):
        create("resnet18", in_chans=1)
    with pytest.raises(InputError, match="num_classes is -1; 0 or more is allowed"):
        create("resnet18", num_classes=-1)
    with pytest.raises(UnknownName, match="no model 'torchvision'"):
        plm_core.create_model("torchvision")


class Bomb:
    def __reduce__(self):
        return print, ("code was run",)


@pytest.mark.parametrize("broken", ["hash", "code", "missing", "cut"])
def test_weights_that_cannot_be_had_are_one_line(broken, published, monkeypatch, tmp_path, capsys):
    state = create(TINY).state_dict()
    published({"fc.weight": Bomb()} if broken == "code" else state, "00000000" if broken == "hash" else None)
    (file,) = tmp_path.glob("*.pth")
    if broken == "cut":
        file.write_bytes(file.read_bytes()[:1000])
        monkeypatch.setattr(
            models.get_model_weights(TINY).DEFAULT.value, "url", file.rename(tmp_path / "w.pth").as_uri()
        )
    if broken == "missing":
        file.unlink()
    with pytest.raises(WeightsError, match=f"cannot get torchvision:{TINY}.IMAGENET1K_V1: ") as caught:
        create(TINY, pretrained=True)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""


def test_a_licence_of_the_weights_is_said(published, monkeypatch, caplog):
    entry = models.get_model_weights(TINY).DEFAULT
    monkeypatch.setitem(entry.meta, "license", "https://example.org/nc")
    published(create(TINY).state_dict())
    create(TINY)
    assert not caplog.text
    create(TINY, pretrained=True)
    assert "have a licence of their own: https://example.org/nc" in caplog.text


# --- preprocessing ----------------------------------------------------------------------------------------------


def test_preprocessing_is_that_of_the_weights():
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8))
    with torch.device("meta"):
        old, new, default = (create(f"resnet50{tag}") for tag in (".IMAGENET1K_V1", ".IMAGENET1K_V2", ""))
    first, second = (plm_core.transform_for(model)(photo) for model in (old, new))
    assert torch.equal(first, models.ResNet50_Weights.IMAGENET1K_V1.transforms()(photo))
    assert not torch.equal(first, second)
    assert torch.equal(plm_core.transform_for(default)(photo), second)
    assert plm_core.transform_for(copy.deepcopy(old))(photo.convert("L")).shape == (3, 224, 224)
    assert pickle.loads(pickle.dumps(old.plm_origin)) == old.plm_origin


def test_a_vit_has_the_size_that_its_preprocessing_gives():
    with torch.device("meta"):
        model = create("vit_b_16.IMAGENET1K_SWAG_E2E_V1")
    x = plm_core.transform_for(model)(Image.new("RGB", (500, 400)))
    assert x.shape == (3, 384, 384)
    assert plm_core.embed(model, x[None].to("meta")).shape == (1, 768)


def test_preprocessing_of_clips():
    with torch.device("meta"):
        model = create("r3d_18")
    x = plm_core.transform_for(model)(torch.zeros(8, 3, 60, 70, dtype=torch.uint8))
    assert x.shape == (3, 8, 112, 112)
    assert plm_core.embed(model, x[None].to("meta")).shape == (1, 512)


def test_preprocessing_of_a_model_of_unknown_weights():
    with pytest.raises(InputError, match="this SqueezeNet is not known: create it with plm_core"):
        plm_core.transform_for(models.squeezenet1_1())


# --- embeddings -------------------------------------------------------------------------------------------------

ON_META = {
    "alexnet": 4096,
    "convnext_tiny": 768,
    "densenet121": 1024,
    "googlenet": 1024,
    "inception_v3": 2048,
    "maxvit_t": 512,
    "resnet50": 2048,
    "swin_v2_t": 768,
    "vgg11": 4096,
}


@pytest.mark.parametrize("name", [TINY, "mobilenet_v3_small", "mnasnet0_5", "regnet_x_400mf", "resnet18"])
@torch.no_grad()
def test_it_is_what_the_last_layer_receives(name):
    for model in (create(name), models.get_model(name).eval()):
        embedding, logits = embed_and_classify(model, IMAGES)
        last = [part for part in model.modules() if isinstance(part, nn.Linear)][-1]
        assert torch.equal(logits, model(IMAGES))
        torch.testing.assert_close(last(embedding), logits)


@pytest.mark.parametrize(("name", "width"), ON_META.items())
def test_every_family_of_classifiers_has_one(name, width):
    with torch.device("meta"):
        model = create(name)
        size = models.get_model_weights(name).DEFAULT.transforms().crop_size[0]
        embedding, logits = embed_and_classify(model, torch.rand(2, 3, size, size))
    assert (embedding.shape, logits.shape) == ((2, width), (2, 1000))
