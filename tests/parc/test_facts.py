"""Facts about models, and the scores made of them."""

import math

import pytest

from parc import facts
from parc.facts import Facts, fact_score, facts_of
from plm_core.errors import InputError, NotSupported, UnknownName
from plm_core.models import create_model


@pytest.mark.parametrize(
    ("name", "params", "layers"),
    [
        ("resnet50", 25_557_032, 50),  # by name; its modules would be 54
        ("resnet18.a1_in1k", 11_689_512, 18),
        ("vit_tiny_patch16_224", 5_717_416, 50),  # patch embedding, 12 x (qkv, proj, fc1, fc2), head
    ],
)
def test_size_and_depth_without_weights(name, params, layers):
    known = facts_of(name)
    assert (known.params, known.layers, known.imagenet_top1) == (params, layers, None)
    assert known.source.startswith("layers by name" if "resnet" in name else "layers counted")


@pytest.mark.parametrize(
    ("name", "depth"),
    [
        ("seresnextaa101d_32x8d.sw_in12k_ft_in1k", 101),
        ("wide_resnet50_2", 50),
        ("resnetv2_152x2_bit.goog_in21k", 152),
        ("densenet121", 121),
        ("vgg16_bn", 16),
        ("ese_vovnet39b", 39),
        ("cspdarknet53", 53),
        ("hf-hub:timm/resnet34.a1_in1k@main", 34),
        ("googlenet", 22),
        ("alexnet", 8),
        # names with numbers that are no depth
        ("hrnet_w18", 1),
        ("regnety_032", 1),
        ("vit_base_resnet50d_224", 1),
        ("mobilenetv3_large_100", 1),
        (None, 1),
    ],
)
def test_depth_by_name(name, depth):
    from torch import nn

    layers, how = facts.layers_of(nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)), name)
    assert layers == depth
    assert how == ("by name" if depth > 1 else "counted as convolution and linear modules")


def test_a_model_at_hand():
    from torch import nn

    known = facts_of(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))
    assert (known.params, known.layers, known.imagenet_top1, known.images) == (26, 2, None, None)
    assert facts_of(nn.Identity()).layers is None


def test_images_by_tag():
    assert facts.training_images("resnet50.a1_in1k") == 1_281_167
    assert facts.training_images("vit_base_patch16_224.augreg_in21k") == 14_197_122
    assert facts.training_images("vit_base_patch16_224.augreg2_in21k_ft_in1k") == 14_197_122
    assert facts.training_images("resnet18") == 1_281_167  # by its default tag
    assert facts.training_images("hf-hub:me/thing") is None
    assert facts.training_images("torchvision:resnet50") == 1_281_167
    assert facts.training_images("torchvision:vit_b_16.IMAGENET1K_SWAG_E2E_V1") == 3_600_000_000
    assert facts.training_images("torchvision:r3d_18") is None  # videos


def test_torchvision_reports_the_accuracy_of_its_weights():
    first, default = (facts_of(f"torchvision:resnet50{tag}") for tag in (".IMAGENET1K_V1", ""))
    assert (first.imagenet_top1, default.imagenet_top1) == (76.13, 80.858)
    assert (default.params, default.layers, default.images) == (25_557_032, 50, 1_281_167)
    assert default.source == "layers by name; ImageNet top-1 of torchvision's weights"
    assert facts.imagenet_top1("torchvision:r3d_18", None) == (None, "")


def test_the_name_of_a_model_of_transformers_says_nothing(vit_folder, tmp_path):
    (tmp_path / "resnet50.a1_in1k").symlink_to(vit_folder)
    known = facts_of(f"transformers:{tmp_path / 'resnet50.a1_in1k'}")
    assert (known.layers, known.images) == (8, None)  # the patch embedding, q, k, v, o, two of the MLP, the classifier
    assert known.params == sum(p.numel() for p in create_model(f"transformers:{vit_folder}").parameters())


def test_top1_of_ours_is_declared():
    pytest.importorskip("hiera")
    from plm_core.hookspecs import Model
    from plm_core.registry import registry

    declared = [
        (f"{name}.{weights.tag}", value)
        for name, entry in registry().all(Model).items()
        for weights in entry.declaration.pretrained
        for metric, value in weights.metrics.items()
        if metric.lower().startswith(facts.TOP1)
    ]
    assert declared
    for name, value in declared:
        assert facts.imagenet_top1(name, None) == (value, f"the declaration of {name}")
    assert facts.imagenet_top1("hiera_image_base_224.mae_in1k", None) == (None, "")  # no head, so no accuracy


def test_top1_of_timm_comes_from_its_csv(tmp_path):
    path = tmp_path / "results-imagenet.csv"
    path.write_text(
        "model,img_size,top1,top1_err\nresnet50.a1_in1k,288,81.214,18.786\nresnet18.a1_in1k,288,73.16,26.84\n"
    )
    assert facts_of("resnet18.a1_in1k", imagenet_csv=path).imagenet_top1 == 73.16
    known = facts_of("resnet50", imagenet_csv=path)  # its default tag is a1_in1k
    assert known.imagenet_top1 == 81.214
    assert "results-imagenet.csv (resnet50.a1_in1k)" in known.source
    assert facts_of("resnet10t", imagenet_csv=path).imagenet_top1 is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "cannot be read"),
        ("", "has columns none"),
        ("model,acc\nx,1\n", "has columns model, acc; needs model, top1"),
        ("model,top1\nx,high\n", "top1 'high' for x"),
        ("model,top1\nx,181\n", "top1 '181' for x"),
        ("model,top1\nx,nan\n", "top1 'nan' for x"),
    ],
)
def test_bad_csv_is_one_line(tmp_path, text, says):
    path = tmp_path / "results.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=says) as caught:
        facts.read_imagenet_csv(path)
    assert "\n" not in str(caught.value)


def test_static_scores():
    known = Facts(params=1000, layers=18, imagenet_top1=70.5, source="", images=400)
    assert fact_score("params", known) == pytest.approx(math.log(1000))
    assert fact_score("layers", known) == 18
    assert fact_score("imagenet-top1", known) == 70.5
    assert fact_score("heuristic", known, target_images=100) == pytest.approx(18 + math.log(500))
    unknown = Facts(params=0, layers=None, imagenet_top1=None, source="")
    for method in facts.FACT_METHODS:
        with pytest.raises(NotSupported, match=method):
            fact_score(method, unknown, 100)
    with pytest.raises(NotSupported, match="number of images"):
        fact_score("heuristic", known)
    with pytest.raises(InputError, match="method is 'depth'"):
        fact_score("depth", known)


def test_unknown_model():
    with pytest.raises(UnknownName, match="resnet50"):
        facts_of("resnet5o")


@pytest.mark.parametrize("name", ["local-dir:/models/resnet50.a1_in1k", "transformers:org/resnet50.a1_in1k"])
def test_the_name_of_a_folder_says_nothing(name, tmp_path):
    """A small model in a folder that is named after a large one keeps its own depth, and has no accuracy."""
    (tmp_path / "timm.csv").write_text("model,top1\nresnet50.a1_in1k,80.2\n")
    own = facts_of(create_model("test_vit"), name, tmp_path / "timm.csv")
    assert (own.layers, own.imagenet_top1, own.images) == (26, None, None)
    known = facts_of(create_model("test_vit"), name.rpartition("/")[2], tmp_path / "timm.csv")
    assert (known.layers, known.imagenet_top1, known.images) == (50, 80.2, 1_281_167)
