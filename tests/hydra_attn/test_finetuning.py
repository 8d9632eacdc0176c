"""Training with Hydra: settings reach the model, and distillation brings it closer to the model with the softmax."""

import copy
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from timm.models import VisionTransformer

import hydra_attn
import plm_core
from hydra_attn import finetuning
from hydra_attn.api import altered_blocks, indices
from hydra_attn.finetuning import DISTILL_PRESETS, PAPER, PRESETS, DistillConfig, HydraConfig, distill, finetune
from plm_core import shapes
from plm_core.errors import InputError, NotSupported
from plm_core.runs import Job, train
from plm_core.training import Recipe
from plm_core.training.micro import InMemory
from plm_core.transforms import parse

NAME = "hydra_micro_shapes"
RECIPE = Recipe(epochs=12, batch_size=16, lr=2e-3, weight_decay=0.0)
DATA = InMemory(torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 5)


def vit(**options):
    torch.manual_seed(0)
    return VisionTransformer(
        img_size=16, patch_size=4, embed_dim=24, depth=4, num_heads=2, mlp_ratio=2, num_classes=5, **options
    )


def changed(model):
    blocks = list(model.blocks)
    return [blocks.index(block) for block in altered_blocks(model)]


@pytest.mark.parametrize(
    ("layers", "order", "expected"), [(2, "backward", [2, 3]), ("all", "backward", [0, 1, 2, 3]), (1, "forward", [0])]
)
def test_the_layers_of_a_config_have_hydra_while_it_trains_and_afterwards(layers, order, expected):
    model = hydra_attn.apply(vit(), 3)  # which the config replaces
    config = HydraConfig.plain(RECIPE, layers=layers, order=order, kernel="mean")
    before = copy.deepcopy(model.state_dict())
    finetune(model, DATA, config, 5, max_steps=2, seed=0)
    assert changed(model) == expected
    assert all(not torch.equal(value, before[key]) for key, value in model.state_dict().items())
    hydra_attn.remove(model)


def test_distillation_brings_a_model_to_what_it_did_with_the_softmax():
    model = vit().eval()
    expected = model(DATA.x).log_softmax(-1).detach()
    config = DistillConfig.plain(RECIPE, layers=2)
    swapped = hydra_attn.apply(copy.deepcopy(model), 2)(DATA.x).log_softmax(-1)
    history = distill(model, DATA, config, 5, seed=0, log_steps=8).history
    assert changed(model) == [2, 3]
    distance = F.mse_loss(model.eval()(DATA.x).log_softmax(-1), expected)
    assert distance < 0.3 * F.mse_loss(swapped, expected)
    first, last = (history[at] for at in (0, -2 if "loss" not in history[-1] else -1))
    for part in ("blocks", "logits"):
        assert last[part] < 0.5 * first[part]


def test_the_parts_of_the_loss_are_what_they_say():
    student, target = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(3))
    log_p, q = (student / 2).log_softmax(-1).double(), (target / 2).softmax(-1).double()
    by_hand = 4 * (q * (q.log() - log_p)).sum(-1).mean()
    assert finetuning._divergence(student, target, 2.0) == pytest.approx(by_hand.item(), rel=1e-5)
    x, y = torch.randn(2, 2, 50, 8, generator=torch.Generator().manual_seed(4))
    assert finetuning._distance(x, x) == 0
    assert finetuning._distance(y.mean((0, 1)).expand_as(y), y) == pytest.approx(1, rel=0.02)  # of the best constant
    assert finetuning._distance(3 * x, 3 * y) == pytest.approx(finetuning._distance(x, y).item(), rel=1e-5)


def test_a_model_that_cannot_have_hydra_is_refused_unchanged():
    model = torch.nn.Linear(3, 3)
    for function, config in ((finetune, PRESETS["micro"]), (distill, DISTILL_PRESETS["micro"])):
        with pytest.raises(NotSupported):
            function(model, DATA, config, 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"order": "up"}, "order 'up' is not allowed: one of backward, forward, interleaved is"),
        ({"kernel": "exp"}, "kernel 'exp' is not allowed: one of cosine, "),
        ({"layers": "most"}, "layers 'most' is not allowed"),
        ({"temperature": 0.0}, "temperature 0.0 is not allowed: more than 0 is"),
        ({"blocks": 0.0, "logits": 0.0}, "blocks, logits and labels are all 0"),
    ],
)
def test_settings_that_are_not_allowed(changes, message):
    with pytest.raises(InputError, match=message):
        replace(DISTILL_PRESETS["micro"], **changes)


def test_the_papers_recipe():
    for name, layers in (("deit_last2", [10, 11]), ("deit_last8", list(range(4, 12))), ("deit_all", list(range(12)))):
        config = PAPER[name]
        assert indices(config.layers, 12, config.order) == layers
        assert config.kernel == "cosine"
        recipe = config.recipe
        assert (recipe.epochs, recipe.warmup_epochs, recipe.weight_decay) == (300, 5, 0.05)
        assert recipe.lr == 5e-4 * recipe.batch_size / 512
        assert (config.mixup, config.cutmix, config.smoothing, config.drop_path) == (0.8, 1.0, 0.1, 0.1)


@pytest.mark.parametrize("name", [*PRESETS, *DISTILL_PRESETS])
def test_hydra_is_an_argument_of_models_that_take_it_and_a_transform_of_others(name, monkeypatch):
    config = {**PRESETS, **DISTILL_PRESETS}[name]
    jobs = []
    monkeypatch.setattr(finetuning, "train_classifier", lambda job, *training: jobs.append(job))
    asked = {"recipe": "r", "data": "x", "out": Path("y"), "preset": "w", "config": config, "pretrained": False}
    for run in (finetuning.run_finetune, finetuning.run_distill):
        run(Job(model="hydra_vit_tiny_patch16_224", model_kwargs={"drop_rate": 0.1}, **asked))
        run(Job(model="vit_tiny_patch16_224", transforms=("a",), **asked))
        own, other = jobs[-2:]
        assert own.transforms == ()
        assert own.model_kwargs == {
            "drop_rate": 0.1,
            "hydra_layers": config.layers,
            "hydra_order": "backward",
            "hydra_kernel": "cosine",
        }
        first, text = other.transforms
        assert first == "a"
        assert parse(text) == ("hydra", {"layers": config.layers, "order": "backward", "kernel": "cosine"})
        with pytest.raises(InputError, match="model_kwargs has hydra_order, which follows from the setting order"):
            run(Job(model=NAME, model_kwargs={"hydra_order": "forward"}, **asked))


def test_an_error_leaves_hydra_where_it_was():
    model = hydra_attn.apply(vit(), 3)
    for function, presets in ((finetune, PRESETS), (distill, DISTILL_PRESETS)):
        with pytest.raises(InputError, match="layers is 99; a number from 1 to 4"):
            function(model, DATA, replace(presets["micro"], layers=99), 5)
        with pytest.raises(InputError, match="config is a dict; it is a "):
            function(model, DATA, {}, 5)
    with pytest.raises(InputError, match="config is a HydraConfig; it is a DistillConfig"):
        distill(model, DATA, PRESETS["micro"], 5)
    assert changed(model) == [1, 2, 3]


def test_the_card_of_another_model_says_how_hydra_is_applied(pictures, tmp_path):
    options = {"seed": 0, "max_steps": 1, "settings": {"epochs": 1, "batch_size": 8, "layers": 1}, "preset": "micro"}
    train("hydra-finetune", pictures, tmp_path / "run", model="test_vit", pretrained=False, **options)
    card = " ".join((tmp_path / "run" / "README.md").read_text().split())
    assert "plm_core.apply(model, 'hydra', layers=1, order='backward', kernel='cosine')" in card


def test_a_teacher_with_hydra_is_refused(pictures, tmp_path):
    with pytest.raises(InputError, match="has Hydra already, so there is no softmax to imitate"):
        train("hydra-distill", pictures, tmp_path / "run", model=NAME)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder of scenes of one large shape, in a folder for each of the eight shapes."""
    from PIL import Image

    root = tmp_path_factory.mktemp("shapes")
    images, labels = shapes_of(32)
    for at, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = root / shapes.SHAPES[label] / f"{at}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    assert len(list(root.iterdir())) == len(shapes.SHAPES)
    return root


def shapes_of(count):
    from plm_core.training.micro import large_shapes

    images, labels = large_shapes("train", 48, 8 * count)
    chosen = [at for shape in range(8) for at in (labels == shape).nonzero()[: count // 8, 0].tolist()]
    return images[chosen], labels[chosen]


def test_a_run_of_distillation_leaves_a_model_that_has_hydra(folder, tmp_path):
    options = {"seed": 0, "max_steps": 1, "settings": {"epochs": 1, "batch_size": 8}}
    train("finetune", folder, tmp_path / "softmax", model=NAME, model_kwargs={"hydra_layers": 0}, **options)
    assert changed(plm_core.create_model(tmp_path / "softmax")) == []
    options["settings"] |= {"layers": 3}
    train("hydra-distill", folder, tmp_path / "hydra", model=str(tmp_path / "softmax"), **options)
    model = plm_core.create_model(tmp_path / "hydra", pretrained=True)
    assert changed(model) == [3, 4, 5]
    plm_core.apply(hydra_attn.remove(model), "hydra", layers=1)


def test_a_teacher_of_other_classes_is_refused(folder, tmp_path):
    for name in shapes.SHAPES:
        shutil.copytree(folder / name, tmp_path / "data" / f"a {name}")
    options = {"settings": {"epochs": 1}, "max_steps": 1}
    train("finetune", folder, tmp_path / "softmax", model=NAME, model_kwargs={"hydra_layers": 0}, **options)
    with pytest.raises(InputError, match=r"is no classifier of the classes of data .*: finetune it on them first"):
        train("hydra-distill", tmp_path / "data", tmp_path / "run", model=str(tmp_path / "softmax"))
