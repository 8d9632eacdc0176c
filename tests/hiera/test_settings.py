"""Every setting of each recipe reaches what it is for: the model, the loss, the data or the optimiser.

A training is stopped where it hands all of these to the loop. No value is a default of a preset.
"""

from functools import partial

import pytest
import torch
from timm.layers import DropPath
from torch import nn

from hiera import coco
from plm_core import runs

RECIPE = {
    "epochs": 7,
    "batch_size": 4,
    "lr": 3e-3,
    "betas": (0.7, 0.8),
    "weight_decay": 0.21,
    "warmup_epochs": 3,
    "warmup_start": 0.4,
    "clip_grad": 0.6,
    "aug_repeats": 2,
}
CROPS = {"scale": (0.31, 0.42), "hflip": 0.9}
MASKED = {"mask_ratio": 0.65, "drop_path": 0.3, "decoder_embed_dim": 12, "decoder_depth": 3, "decoder_num_heads": 2}
CLASSES = {"drop_path": 0.3, "dropout": 0.35, "smoothing": 0.23, "mixup": 0.0, "cutmix": 0.0}
PRETRAININGS = {"pretrain": ("hiera_micro_shapes", "pictures"), "pretrain-video": ("hiera_micro_motions", "videos")}
FINETUNINGS = {"finetune": ("hiera_micro_shapes", "pictures"), "finetune-video": ("hiera_micro_motions", "videos")}


class Stopped(Exception):
    """What a recipe hands to the loop."""


@pytest.fixture
def handed_over(monkeypatch, tmp_path):
    """Return a function that starts a recipe and returns (model, data, loss, recipe, options) of its training."""

    def stop(model, data, loss, recipe, **options):
        raise Stopped(model, data, loss, recipe, options)

    monkeypatch.setattr("hiera.recipes.steps.fit", stop)
    monkeypatch.setattr("plm_core.training.finetuning.fit", stop)

    def start(recipe, data, model, settings, **options):
        text = {name: str(value) for name, value in settings.items()}
        with pytest.raises(Stopped) as stopped:
            runs.train(f"hiera-{recipe}", data, tmp_path / "out", model=model, settings=text, **options)
        return stopped.value.args

    return start


def parts(thing, depth=9):
    """Yield everything inside of a preprocessing: transforms in lists, attributes, partial functions and closures."""
    yield thing
    inside = list(thing) if isinstance(thing, list | tuple) else list(getattr(thing, "__dict__", {}).values())
    inside += [thing.func, *thing.args, *thing.keywords.values()] if isinstance(thing, partial) else []
    inside += [cell.cell_contents for cell in getattr(thing, "__closure__", None) or ()]
    for part in inside if depth else ():
        if not isinstance(part, str | bytes | int | float | torch.Tensor | type):
            yield from parts(part, depth - 1)


def of(data, kind):
    """Return the one transform of a kind in a dataset."""
    (found,) = {id(part): part for part in parts(data) if type(part).__name__ == kind}.values()
    return found


def assert_crops(data):
    assert of(data, "RandomResizedCropAndInterpolation").scale == CROPS["scale"]
    assert of(data, "RandomHorizontalFlip").p == CROPS["hflip"]


def rates(model):
    return max(module.drop_prob for module in model.modules() if isinstance(module, DropPath))


class Noting(nn.Module):
    """A model that notes the mask ratio it is called with."""

    def forward(self, x, mask_ratio):
        return (torch.tensor(mask_ratio),)


@pytest.mark.parametrize("recipe", PRETRAININGS)
def test_of_a_pretraining(recipe, handed_over, request):
    name, data = PRETRAININGS[recipe]
    settings = {**RECIPE, **CROPS, **MASKED}
    model, data, loss, used, options = handed_over(recipe, str(request.getfixturevalue(data)), name, settings, seed=5)
    assert {key: getattr(used, key) for key in RECIPE} == RECIPE
    assert loss(Noting(), [torch.zeros(1)]).item() == pytest.approx(0.65)
    assert rates(model) == 0.3
    assert (model.decoder_embed.out_features, len(model.decoder_blocks)) == (12, 3)
    assert {block.attn.num_heads for block in model.decoder_blocks} == {2}
    assert_crops(data)
    assert options["seed"] == 5


@pytest.mark.parametrize("recipe", FINETUNINGS)
def test_of_a_finetuning(recipe, handed_over, request):
    name, data = FINETUNINGS[recipe]
    settings = {**RECIPE, **CROPS, **CLASSES, "layer_decay": 0.55}
    model, data, loss, used, _ = handed_over(recipe, str(request.getfixturevalue(data)), name, settings)
    assert {key: getattr(used, key) for key in [*RECIPE, "layer_decay"]} == {**RECIPE, "layer_decay": 0.55}
    assert rates(model) == 0.3
    assert {module.p for module in model.head.modules() if isinstance(module, nn.Dropout)} == {0.35}
    assert_crops(data)
    logits, labels = torch.randn(4, 2), torch.tensor([0, 1, 1, 0])
    expected = nn.functional.cross_entropy(logits, labels, label_smoothing=0.23)
    torch.testing.assert_close(loss(lambda x: x, (logits, labels)), expected)


@pytest.mark.parametrize("cascade", [True, False])
def test_of_a_detection(cascade, handed_over, objects):
    settings = {**RECIPE, "img_size": 64, "scale": (0.7, 0.9), "drop_path": 0.3, "cascade": cascade}
    model, data, loss, used, options = handed_over(
        "detect", str(objects), "hiera_micro_detector", settings, pretrained=not cascade
    )
    assert {key: getattr(used, key) for key in RECIPE} == RECIPE
    assert (data.transform.size, data.transform.scale) == (64, (0.7, 0.9))
    assert (model.transform.min_size, model.transform.max_size) == ((64,), 64)
    assert rates(model.backbone.trunk) == pytest.approx(0.3)
    assert hasattr(model.roi_heads, "coders") is cascade
    assert (loss, options["collate"]) == (coco.loss, coco.collate)
    assert data[0][0].shape == (3, 64, 64)
