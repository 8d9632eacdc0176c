"""The configurations are the paper's tables, written here a second time. Preprocessing and mixing work as described."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from hiera import recipes
from hiera.recipes import PretrainConfig, pretrain_transform
from plm_core import InputError
from plm_core.training import Recipe
from plm_core.training.finetuning import FinetuneConfig, accuracy, finetune_transform, mixer
from plm_core.training.micro import InMemory

# --- the tables ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "drop_path"),
    [("tiny", 0), ("small", 0), ("base", 0.2), ("base_plus", 0.2), ("large", 0.2), ("huge", 0.3)],
)
def test_pretraining_of_images(size, drop_path):
    recipe = Recipe(epochs=1600, batch_size=4096, lr=8e-4, betas=(0.9, 0.95), weight_decay=0.05, warmup_epochs=40)
    assert recipes.PRETRAIN_IMAGE[size] == PretrainConfig(
        recipe=recipe, mask_ratio=0.6, drop_path=drop_path, scale=(0.2, 1), hflip=0.5
    )


@pytest.mark.parametrize(
    ("size", "epochs", "lr", "drop_path", "layer_decay"),
    [
        ("tiny", 300, 2e-3, 0.1, 0.65),
        ("small", 200, 2e-3, 0.1, 0.65),
        ("base", 100, 2e-3, 0.1, 0.7),
        ("base_plus", 100, 1e-3, 0.1, 0.7),
        ("large", 50, 1e-3, 0.1, 0.85),
        ("huge", 50, 1e-3, 0.3, 0.85),
    ],
)
def test_finetuning_of_images(size, epochs, lr, drop_path, layer_decay):
    config = recipes.FINETUNE_IMAGE[size]
    assert config.recipe == Recipe(
        epochs=epochs,
        batch_size=1024,
        lr=lr,
        betas=(0.9, 0.999),
        weight_decay=0.05,
        warmup_epochs=5,
        layer_decay=layer_decay,
    )
    assert (config.drop_path, config.dropout) == (drop_path, 0)
    assert (config.mixup, config.cutmix, config.smoothing) == (0.8, 1, 0.1)
    assert config.auto_augment == "rand-m9-mstd0.5-inc1"


@pytest.mark.parametrize(
    ("size", "lr", "drop_path"),
    [("base", 8e-4, 0.1), ("base_plus", 8e-4, 0.2), ("large", 8e-4, 0.2), ("huge", 3.2e-4, 0.4)],
)
def test_pretraining_of_video(size, lr, drop_path):
    recipe = Recipe(
        epochs=3200, batch_size=512, lr=lr, betas=(0.9, 0.95), weight_decay=0.05, warmup_epochs=120, aug_repeats=4
    )
    assert recipes.PRETRAIN_VIDEO[size] == recipes.VideoPretrainConfig(
        recipe=recipe, mask_ratio=0.9, drop_path=drop_path, scale=(0.5, 1), hflip=0.5
    )


@pytest.mark.parametrize(
    ("size", "epochs", "lr", "drop_path", "layer_decay", "dropout"),
    [
        ("base", 150, 8e-4, 0.2, 0.8, 0.3),
        ("base_plus", 150, 8e-4, 0.2, 0.8, 0.3),
        ("large", 100, 8e-4, 0.2, 0.875, 0.5),
        ("huge", 100, 4e-4, 0.3, 0.875, 0.5),
    ],
)
def test_finetuning_of_video(size, epochs, lr, drop_path, layer_decay, dropout):
    config = recipes.FINETUNE_VIDEO[size]
    assert config.recipe == Recipe(
        epochs=epochs,
        batch_size=256,
        lr=lr,
        betas=(0.9, 0.999),
        weight_decay=0.05,
        warmup_epochs=10,
        layer_decay=layer_decay,
        clip_grad=5,
        aug_repeats=2,
    )
    assert (config.drop_path, config.dropout) == (drop_path, dropout)
    assert (config.mixup, config.cutmix, config.smoothing) == (0.8, 1, 0.1)
    assert config.auto_augment == "rand-m7-mstd0.5-inc1"


@pytest.mark.parametrize(
    ("table", "size", "lr", "drop_path", "layer_decay", "epochs"),
    [
        (recipes.DETECT, "base", 3.5e-5, 0.2, None, 100),
        (recipes.DETECT, "base_plus", 3.5e-5, 0.2, None, 100),
        (recipes.DETECT, "large", 3e-5, 0.4, None, 100),
        (recipes.DETECT_VIT, "base", 1e-4, 0.1, 0.7, 100),
        (recipes.DETECT_VIT, "large", 1e-4, 0.4, 0.8, 100),
        (recipes.DETECT_VIT, "huge", 1e-4, 0.5, 0.9, 75),
    ],
)
def test_detection(table, size, lr, drop_path, layer_decay, epochs):
    config, recipe = table[size], table[size].recipe
    assert (recipe.lr, config.drop_path, recipe.layer_decay, recipe.epochs) == (lr, drop_path, layer_decay, epochs)
    assert (recipe.batch_size, recipe.weight_decay, recipe.betas, recipe.optimizer) == (64, 0.1, (0.9, 0.999), "adamw")
    assert (config.img_size, config.scale, config.cascade) == (1024, (0.1, 2), False)


@pytest.mark.parametrize("size", ["base", "base_plus", "large"])
def test_rates_of_detection_by_step(size):
    steps = 184375
    recipe = recipes.DETECT[size].recipe
    rates = {step: recipe.lr_factor(step, steps) for step in (0, 125, 250, 163888, 163889, 177545, 177546, steps - 1)}
    assert list(rates.values()) == pytest.approx([0.001, 0.5005, 1, 1, 0.1, 0.1, 0.01, 0.01])


def test_sizes_are_those_of_the_paper_and_micro():
    image = {"tiny", "small", "base", "base_plus", "large", "huge", "micro"}
    video = {"base", "base_plus", "large", "huge", "micro"}
    assert recipes.PRETRAIN_IMAGE.keys() == recipes.FINETUNE_IMAGE.keys() == image
    assert recipes.PRETRAIN_VIDEO.keys() == recipes.FINETUNE_VIDEO.keys() == video
    assert recipes.DETECT.keys() == {"base", "base_plus", "large", "micro"}


# --- mixing ----------------------------------------------------------------------------------------------------

PLAIN = FinetuneConfig(recipe=Recipe(epochs=1, batch_size=4, lr=1e-3), auto_augment=None, mixup=0.0, cutmix=0.0)


def mixing(**changes):
    return mixer(FinetuneConfig(recipe=PLAIN.recipe, **changes), num_classes=5)


def test_there_is_no_mixing_if_both_are_0():
    assert mixing(mixup=0.0, cutmix=0.0) is None
    assert mixing(mixup=0.0, cutmix=1.0) is not None
    assert mixing(mixup=0.8, cutmix=0.0) is not None


@pytest.mark.parametrize("changes", [{"mixup": 0.8, "cutmix": 0.0}, {"mixup": 0.0, "cutmix": 1.0}])
def test_inputs_and_labels_are_mixed_alike(changes):
    """The pixels of each picture equal its label, so the mean of a mixture tells the share of each label."""
    np.random.seed(0)
    y = torch.tensor([0, 1, 3, 4])
    x = y.float().view(-1, 1, 1, 1).expand(4, 3, 32, 32).clone()
    before = x.clone()
    mixed, soft = mixing(smoothing=0.0, **changes)(x, y)
    assert torch.equal(x, before)
    assert not torch.equal(mixed, x)
    torch.testing.assert_close(soft.sum(1), torch.ones(4))
    torch.testing.assert_close(mixed.mean((1, 2, 3)), soft @ torch.arange(5.0))


def test_labels_are_smoothed():
    _, soft = mixing(smoothing=0.1)(torch.rand(2, 3, 8, 8), torch.tensor([1, 2]))
    torch.testing.assert_close(soft.sum(1), torch.ones(2))
    assert soft[:, [0, 3, 4]].allclose(torch.tensor(0.02))


@pytest.mark.parametrize("changes", [{"mixup": 0.8, "cutmix": 0.0}, {"mixup": 0.0, "cutmix": 1.0}])
def test_all_frames_of_a_clip_are_mixed_alike(changes):
    np.random.seed(0)
    frame = torch.rand(2, 3, 1, 16, 16)
    clips = frame.expand(-1, -1, 4, -1, -1).clone()
    before = clips.clone()
    mixed, _ = mixing(**changes)(clips, torch.tensor([0, 1]))
    assert mixed.shape == clips.shape
    assert torch.equal(clips, before)
    assert not torch.equal(mixed, clips)
    assert torch.equal(mixed, mixed[:, :, :1].expand_as(mixed))


def test_an_odd_batch_is_refused():
    with pytest.raises(InputError, match="need an even batch, not 3 samples at once: see per_device_batch_size"):
        mixing()(torch.rand(3, 3, 8, 8), torch.tensor([0, 1, 2]))


# --- preprocessing ---------------------------------------------------------------------------------------------

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)


def half(left=255, right=0):
    """Return a picture that is white on the left."""
    return Image.fromarray(np.tile(np.repeat([left, right], 32).astype(np.uint8)[None, :, None], (64, 1, 3)))


PRETRAINING = PretrainConfig(recipe=PLAIN.recipe, scale=(0.9, 1.0))
FINETUNING = FinetuneConfig(recipe=PLAIN.recipe, auto_augment=None, scale=(0.9, 1.0))
KINDS = [(pretrain_transform, PRETRAINING), (finetune_transform, FINETUNING)]
FLIPS = [(pretrain_transform, PRETRAINING), (finetune_transform, FINETUNING)]


@pytest.mark.parametrize(("make", "config"), [*KINDS, (finetune_transform, recipes.FINETUNE_IMAGE["base"])])
def test_preprocessing_returns_normalised_pictures_of_the_size(make, config):
    grey = Image.new("RGB", (80, 60), (51, 51, 51))
    x = make((48, 32), config, MEAN, STD)(grey)
    assert (x.shape, x.dtype) == ((3, 48, 32), torch.float32)
    if not getattr(config, "auto_augment", None):
        expected = (0.2 - torch.tensor(MEAN)) / torch.tensor(STD)
        torch.testing.assert_close(x, expected.view(3, 1, 1).expand_as(x))


@pytest.mark.parametrize(("make", "config"), FLIPS)
@pytest.mark.parametrize("hflip", [0.5, 0.0])
def test_flips_are_drawn_only_when_asked_for(make, config, hflip):
    transform = make((16, 16), replace(config, hflip=hflip), (0.0,) * 3, (1.0,) * 3)
    pictures = [transform(half()) for _ in range(32)]
    flipped = [bool(x[:, :, 0].mean() < x[:, :, -1].mean()) for x in pictures]
    assert any(flipped) == bool(hflip)
    assert not all(flipped)


def test_pretraining_crops_no_less_than_its_area():
    """On a ramp, the range of the values is the width of the crop."""
    ramp = Image.fromarray(np.tile(np.arange(64, dtype=np.uint8)[None, :, None], (64, 1, 3)))
    wide = pretrain_transform((64, 64), PRETRAINING, (0.0,) * 3, (1 / 255,) * 3)
    narrow = pretrain_transform((64, 64), recipes.PRETRAIN_IMAGE["base"], (0.0,) * 3, (1 / 255,) * 3)
    widths = [[float(t(ramp).max() - t(ramp).min()) for _ in range(50)] for t in (wide, narrow)]
    assert min(widths[0]) > 64 * 0.75
    assert min(widths[1]) < 64 * 0.6


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize(("make", "config"), KINDS)
def test_images_of_any_mode_get_the_channels_of_the_model(make, config, mode, channels):
    image = Image.new(mode, (40, 30))
    assert make((16, 16), config, (0.5,) * channels, (0.5,) * channels, channels)(image).shape == (channels, 16, 16)


# --- accuracy --------------------------------------------------------------------------------------------------


class Loudest(torch.nn.Module):
    """A classifier that returns its input, and in training mode nonsense."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, x):
        return -x if self.training else x * self.weight


@pytest.mark.parametrize("batch", [2, 3, 64])
def test_accuracy_counts_every_sample_once(batch):
    x = torch.eye(4)[[0, 1, 2, 3, 0, 1, 2]]
    y = torch.tensor([0, 1, 2, 3, 1, 1, 0])
    assert accuracy(Loudest().train(), TensorDataset(x, y), batch) == pytest.approx(100 * 5 / 7)
    assert accuracy(Loudest(), InMemory(x[:4], y[:4])) == 100
