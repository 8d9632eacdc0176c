"""The pooled embedding of every family with a block adapter: what the family's own classifier receives."""

import threading

import pytest
import torch
import torchvision
import transformers
from torch import nn

import plm_core
from plm_core import InputError, NotSupported
from plm_core.adapters import transformers as transformers_adapters
from plm_core.blocks import examples
from plm_core.embedding import embed_and_classify, watch
from plm_core.hookspecs import BlockAdapter
from plm_core.registry import registry

ADAPTERS = {adapter.name: adapter for adapter in registry().declared(BlockAdapter)}
CLASSIFIERS = {
    name: adapter.example[1]["model"]
    for name, adapter in ADAPTERS.items()
    if str(adapter.example[1].get("model", "")).endswith("Classification")
}
VIT = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 64, "image_size": 32}
TOWER = {**VIT, "patch_size": 8}
FILM = {**TOWER, "num_frames": 4, "tubelet_size": 2}
IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
CLIPS = torch.rand(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0))

pytestmark = pytest.mark.usefixtures("no_grad")


@pytest.fixture
def no_grad():
    with torch.no_grad():
        yield


def shaken(model):
    """Randomise the parameters, so that a norm or a projection that is left out shows."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


def hf_model(name, **options):
    return shaken(transformers_adapters.example(name, **options))


def two_towers(name, width):
    """Build CLIPModel or SiglipModel, whose images and texts meet in `width` dimensions."""
    text = {key: value for key, value in VIT.items() if key != "image_size"} | {"vocab_size": 20}
    config = getattr(transformers, f"{name}Config")
    shared = {"projection_dim": width} if name == "CLIP" else {}
    return shaken(getattr(transformers, f"{name}Model")(config(text_config=text, vision_config=TOWER, **shared)))


@pytest.mark.parametrize("name", sorted(ADAPTERS))
def test_every_family_has_an_embedding(name):
    if name.startswith("open_clip"):
        pytest.importorskip("open_clip")
    model, x = examples.make(ADAPTERS[name])
    shaken(model)
    embedding = plm_core.embed(model, x)
    assert embedding.ndim == 2
    assert len(embedding) == 2
    assert embedding.isfinite().all()
    assert not torch.allclose(*embedding)
    assert torch.equal(plm_core.embed(model, x), embedding)


@pytest.mark.parametrize("name", sorted(CLASSIFIERS))
def test_it_is_what_the_classifier_receives(name):
    model, x = examples.make(ADAPTERS[name])
    logits = shaken(model)(x).logits
    embedding, same_logits = embed_and_classify(model, x)
    assert torch.equal(same_logits, logits)
    torch.testing.assert_close(model.classifier(embedding), logits)
    without = type(model)(type(model.config)(**model.config.to_dict() | {"num_labels": 0})).eval()
    without.load_state_dict(model.state_dict(), strict=False)
    torch.testing.assert_close(plm_core.embed(without, x), embedding)


@pytest.mark.parametrize("name", sorted(CLASSIFIERS))
def test_the_bare_model_has_the_same_embedding(name):
    model, x = examples.make(ADAPTERS[name])
    shaken(model)
    bare = plm_core.embed(model.base_model, x)
    embedding = plm_core.embed(model, x)
    if name == "transformers-videomae":  # the norm after the mean belongs to the classifier's model
        assert not torch.allclose(bare, embedding)
        bare = model.fc_norm(bare)
    torch.testing.assert_close(bare, embedding)


OTHERS = {
    "Swin v2": ("Swinv2ForImageClassification", {"embed_dim": 12, "depths": [1], "num_heads": [2]}, IMAGES),
    "CLIP": ("CLIPForImageClassification", {"vision_config": TOWER}, IMAGES),
    "SigLIP": ("SiglipForImageClassification", {"vision_config": TOWER}, IMAGES),
    "VideoMAE by its first token": ("VideoMAEForVideoClassification", {**FILM, "use_mean_pooling": False}, CLIPS),
    "a family without a block adapter": ("ConvNextForImageClassification", {"hidden_sizes": [8] * 4}, IMAGES),
    "a classifier of two parts": ("ResNetForImageClassification", {"hidden_sizes": [8] * 4, "depths": [1] * 4}, IMAGES),
}


@pytest.mark.parametrize(("name", "options", "x"), OTHERS.values(), ids=OTHERS)
def test_other_classifiers_of_transformers(name, options, x):
    model = hf_model(name, **options)
    embedding, logits = embed_and_classify(model, x)
    given = embedding[:, :, None, None] if name.startswith("ResNet") else embedding
    assert torch.equal(logits, model(x).logits)
    torch.testing.assert_close(model.classifier(given), logits)


def test_a_model_of_timm_without_classes_has_no_logits():
    model = plm_core.create_model("test_vit", num_classes=0).eval()
    embedding, logits = embed_and_classify(model, torch.rand(1, 3, 160, 160))
    assert (embedding.shape, logits) == ((1, 64), None)


def test_pooling_of_bare_models():
    dinov2 = hf_model("Dinov2WithRegistersModel", **TOWER, num_register_tokens=3)
    tokens = dinov2(IMAGES).last_hidden_state
    expected = torch.cat([tokens[:, 0], tokens[:, 4:].mean(1)], 1)
    torch.testing.assert_close(plm_core.embed(dinov2, IMAGES), expected)

    pooled = hf_model("ViTModel", **TOWER)
    assert torch.equal(plm_core.embed(pooled, IMAGES), pooled(IMAGES).last_hidden_state[:, 0])

    headless = hf_model("SiglipVisionModel", **TOWER, vision_use_head=False)
    torch.testing.assert_close(plm_core.embed(headless, IMAGES), headless(IMAGES).last_hidden_state.mean(1))

    first = hf_model("VideoMAEModel", **FILM, use_mean_pooling=False)
    assert torch.equal(plm_core.embed(first, CLIPS), first(CLIPS).last_hidden_state[:, 0])

    backbone = hf_model("SwinBackbone", embed_dim=12, depths=[1, 1], num_heads=[2, 2], image_size=32)
    torch.testing.assert_close(plm_core.embed(backbone, IMAGES), backbone(IMAGES).feature_maps[-1].flatten(2).mean(2))


def test_image_towers_give_their_projected_embedding():
    clip = two_towers("CLIP", width=7)
    towers = {"vision_model": "vision_model", "visual_projection": "visual_projection"}
    alone = hf_model("CLIPVisionModelWithProjection", **TOWER, projection_dim=7)
    for part in towers:
        getattr(alone, part).load_state_dict(getattr(clip, part).state_dict())
    expected = clip.visual_projection(plm_core.embed(clip.vision_model, IMAGES))
    torch.testing.assert_close(plm_core.embed(clip, IMAGES), expected)
    torch.testing.assert_close(plm_core.embed(alone, IMAGES), expected)
    assert embed_and_classify(alone, IMAGES)[1] is None
    siglip = two_towers("Siglip", width=48)
    assert torch.equal(plm_core.embed(siglip, IMAGES), plm_core.embed(siglip.vision_model, IMAGES))


class Halved(nn.Module):
    """A model of transformers behind a preprocessing, called by keyword."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(pixel_values=x / 2)


def test_a_model_around_another_embeds_the_input_that_the_inner_one_receives():
    bare = hf_model("ViTModel", **TOWER)
    expected = plm_core.embed(bare, IMAGES / 2)
    for wrapped in (Halved(bare), nn.Sequential(nn.AvgPool2d(1), Halved(bare))):
        assert torch.equal(plm_core.embed(wrapped, IMAGES), expected)
    assert not torch.allclose(plm_core.embed(bare, IMAGES), expected)
    assert not bare._forward_pre_hooks
    teacher = hf_model("DeiTForImageClassificationWithTeacher", **TOWER)  # two classifiers, none has the last word
    assert torch.equal(plm_core.embed(teacher, IMAGES), plm_core.embed(teacher.deit, IMAGES))


class Idle(Halved):
    def forward(self, x):
        return x


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (nn.ModuleDict({side: transformers_adapters.example("ViTModel", **TOWER) for side in "ab"}), "no pooled"),
        (Idle(transformers_adapters.example("ViTModel", **TOWER)), "Idle does not run the ViTModel inside it"),
        (torchvision.models.segmentation.lraspp_mobilenet_v3_large(weights_backbone=None), "no pooled embedding"),
        (torchvision.models.squeezenet1_1(), "nor a linear classifier of torchvision or transformers"),
        (transformers_adapters.example("SegformerForSemanticSegmentation"), "no pooled embedding"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_models_without_an_embedding(model, says):
    with pytest.raises(NotSupported, match=says):
        plm_core.embed(model.eval(), IMAGES)


@pytest.mark.parametrize(("name", "shape"), [("test_vit", r"\[2, 101, 64\]"), ("test_resnet", r"\[2, 96, 5, 5\]")])
def test_models_that_do_not_pool_are_refused(name, shape):
    model = plm_core.create_model(name, num_classes=0, global_pool="").eval()
    for call in (plm_core.embed, embed_and_classify):
        with pytest.raises(NotSupported, match=f"gives {shape}.*not pooled; create it with a pooling, such as global"):
            call(model, torch.zeros(2, 3, 160, 160))
    pooled = plm_core.create_model(name, num_classes=0, global_pool="avg").eval()
    assert plm_core.embed(pooled, torch.zeros(2, 3, 160, 160)).shape == (2, pooled.num_features)


def test_wrong_types_are_refused():
    model = plm_core.create_model("test_vit")
    for call in (plm_core.embed, embed_and_classify):
        with pytest.raises(InputError, match="model is a str; a model"):
            call("test_vit", torch.zeros(2, 3, 160, 160))
        with pytest.raises(InputError, match="x is a list; a tensor"):
            call(model, [[0.0]])


def test_torchvision_transformers_with_and_without_their_head():
    model, x = examples.make(ADAPTERS["torchvision-vit"])
    embedding, logits = embed_and_classify(shaken(model), x)
    assert torch.equal(model.heads(embedding), logits)
    model.heads = nn.Identity()
    assert torch.equal(plm_core.embed(model, x), embedding)
    video = shaken(torchvision.models.video.SwinTransformer3d([2, 4, 4], 12, [1, 1], [2, 2], [2, 4, 4]))
    clips = torch.rand(2, 3, 4, 32, 32)
    assert torch.equal(video.head(plm_core.embed(video, clips)), video(clips))


def test_embedding_and_logits_come_from_one_pass():
    for name in ("timm-vit", "transformers-vit", "torchvision-vit"):
        model, x = examples.make(ADAPTERS[name])
        calls = []
        norm = next(part for part in model.modules() if isinstance(part, nn.LayerNorm))
        norm.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        assert embed_and_classify(model, x)[1].ndim == 2
        assert len(calls) == 1


class Meet(nn.Module):
    """A layer at which two threads wait for one another."""

    def __init__(self):
        super().__init__()
        self.barrier = threading.Barrier(2, timeout=30)

    def forward(self, x):
        self.barrier.wait()
        return x


def test_threads_see_their_own_input():
    part = nn.Identity()
    model = nn.Sequential(part, Meet())
    seen = {}
    threads = [
        threading.Thread(target=lambda i=i: seen.update({i: watch(part, model, torch.full((1,), i))[0][0].item()}))
        for i in (1, 2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {1: 1, 2: 2}
