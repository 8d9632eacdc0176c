"""The recipe ``pe-spatial``: masks, losses, teachers and the training of a tiny tower."""

import math
from dataclasses import replace

import pytest
import torch

import pe_encoder
from pe_encoder.alignment import start
from pe_encoder.recipes import spatial, spatial_teachers
from pe_encoder.recipes.spatial_tables import SPATIAL
from plm_core import InputError
from plm_core.training import Recipe

CORE = {
    "patch_size": 8, "width": 24, "layers": 3, "heads": 2, "output_dim": 10, "image_size": 32, "attn_pooler_heads": 2
}  # fmt: skip
TOKENS = {"pool_type": "none", "use_ln_post": False, "output_dim": None, "ls_init_value": 0.1}
RECIPE = Recipe(epochs=2, batch_size=8, lr=1e-3)
CONFIG = replace(SPATIAL["micro"], recipe=RECIPE)


def towers(**changes):
    torch.manual_seed(0)
    return pe_encoder.VisionTower(**CORE), pe_encoder.VisionTower(**CORE | TOKENS | changes)


def test_masked_patches_come_in_blocks_and_are_as_many_in_each_image():
    torch.manual_seed(0)
    masked = spatial.draw_blocks(50, (6, 8), 0.75, 2).unflatten(1, (6, 8))
    assert (masked.sum((1, 2)) == 36).all()
    blocks = masked.unfold(1, 2, 2).unfold(2, 2, 2).flatten(3).float().mean(-1)
    assert set(blocks.unique().tolist()) == {0.0, 1.0}
    assert (blocks.mean(0) > 0.4).all(), "each place is masked in some of the images"
    assert spatial.draw_blocks(2, (3, 5), 1.0, 2).all()
    assert not spatial.draw_blocks(2, (3, 5), 0.0, 2).any()


def test_the_loss_of_the_tokens_falls_as_they_become_alike():
    target = torch.randn(2, 5, 8)
    assert spatial.core_loss(3 * target, target).item() == pytest.approx(-1, abs=1e-6)
    assert spatial.core_loss(-target, target).item() == pytest.approx(1, abs=1e-6)


def test_the_loss_of_similarities_by_hand():
    patches = torch.tensor([[[1.0, 0], [0, 2], [3, 0]]])
    features = torch.tensor([[[1.0, 0], [1, 1], [1, 0]]])
    near = math.exp(20 * (math.sqrt(0.5) - 1))
    ours, theirs = (0, 1, 0), (near, 1, near)  # of the pairs (0, 1), (0, 2), (1, 2)
    expected = 2 * sum((a - b) ** 2 for a, b in zip(ours, theirs, strict=True)) / 9
    assert spatial.local_loss(patches, features, 20.0).item() == pytest.approx(expected, rel=1e-4)


def test_the_student_starts_as_the_core_and_sees_no_masked_patch():
    core, student = towers(ls_init_value=None)
    start(student, core)
    images = torch.randn(2, 3, 32, 32)
    whole = torch.zeros(2, 16, dtype=torch.bool)
    model = spatial.Student(student)
    torch.testing.assert_close(model(images, whole), core.forward_features(images))
    masked = whole.clone()
    masked[:, 0] = True
    other = images.clone()
    other[:, :, :8, :8] = 7
    torch.testing.assert_close(model(images, masked), model(other, masked))
    assert not torch.allclose(model(images, whole), model(other, whole))
    assert "tower.pos_embed" in model.no_weight_decay()


def test_the_layer_scale_of_the_student_stays_and_another_size_of_images_is_resized():
    core, student = towers(image_size=64)
    start(student, core)
    assert student.pos_embed.shape[1] == 65
    assert (student.blocks[0].ls1.gamma == 0.1).all()
    torch.testing.assert_close(student.blocks[2].mlp.fc1.weight, core.blocks[2].mlp.fc1.weight)
    shorter = towers(layers=2, ls_init_value=None)[1]
    start(shorter, core)  # as PE-Lang, which drops the last layers
    images = torch.randn(1, 3, *shorter.image_size)
    core.set_input_size(shorter.image_size)
    torch.testing.assert_close(shorter.forward_features(images), core.forward_features(images, layer_idx=1))
    with pytest.raises(InputError, match="3 layers, width 24 and patch 8, and model one of 4, 24 and 8"):
        start(towers(layers=4)[1], core)
    with pytest.raises(InputError, match="and model one of 3, 32 and 8"):
        start(towers(width=32)[1], core)


def halves(images):
    """Features of a teacher that tells left from right."""
    side = torch.zeros(len(images), 2, 4, 4)
    side[:, 0, :, :2] = 1
    side[:, 1, :, 2:] = 1
    return side


def test_a_training_moves_the_similarities_to_the_teacher_and_leaves_the_core():
    core, student = towers()
    start(student, core)
    before = {key: value.clone() for key, value in core.state_dict().items()}
    data = [(image, 0) for image in torch.randn(32, 3, 32, 32, generator=torch.Generator().manual_seed(1))]
    config = replace(CONFIG, recipe=replace(RECIPE, epochs=8, lr=1e-2), core_weight=0.1)
    result = spatial.train_spatial(student, core, data, config, halves, show=False, device="cpu", log_steps=4)
    assert result.history[-1]["local"] < 0.6 * result.history[0]["local"]
    assert result.state.keys() == student.state_dict().keys()
    assert all(torch.equal(before[key], value) for key, value in core.state_dict().items())
    tokens = student.eval().forward_features(torch.stack([image for image, _ in data]), strip_cls_token=True)
    cosines = spatial.similarities(tokens).mean(0).unflatten(0, (4, 4)).unflatten(2, (4, 4))
    within, across = cosines[:, :2, :, :2].mean(), cosines[:, :2, :, 2:].mean()
    assert within > across + 0.2


def test_features_may_come_with_the_data():
    images = torch.randn(8, 3, 32, 32)
    data = list(zip(images, halves(images), strict=True))
    options = {"show": False, "device": "cpu", "max_steps": 1}
    results = []
    for samples, teacher in ((data, None), ([(image, 0) for image in images], halves)):
        core, student = towers()
        start(student, core)
        results.append(spatial.train_spatial(student, core, samples, CONFIG, teacher, **options).history[-1]["local"])
    assert results[0] == pytest.approx(results[1], rel=1e-5)


def test_the_teacher_of_colours_tells_colours_apart():
    images = torch.full((1, 3, 32, 48), -1.0)
    images[:, 0, :, 24:] = 1.0
    features = spatial_teachers.colours(images + 0.02 * torch.randn(images.shape))
    assert features.shape == (1, 64, 32, 48)
    patches = spatial.at_patches(features, (4, 6))
    cosines = spatial.similarities(patches)[0].unflatten(0, (4, 6)).unflatten(2, (4, 6))
    assert cosines[:, :3, :, :3].min() > 0.98
    assert cosines[:, :3, :, 3:].max() < 0.1


def test_the_paper_table():
    paper = SPATIAL["paper"]
    recipe = paper.recipe
    assert (recipe.optimizer, recipe.betas, recipe.lr, recipe.batch_size) == ("lamb", (0.9, 0.95), 5e-4, 12_288)
    assert recipe.epochs * 300e6 / recipe.batch_size == pytest.approx(24_000)
    assert (paper.mask_ratio, paper.mask_block, paper.sharpness, paper.drop_path) == (0.75, 2, 20.0, 0.4)
    assert paper.core_layer * 50 == pytest.approx(41)
