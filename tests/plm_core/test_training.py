"""Training: recipes in the terms of papers, and runs that depend only on their seed."""

import math
import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import TrainerCallback

from plm_core import InputError, MissingDependency, shapes
from plm_core.training import Recipe, finetuning, fit, parameter_groups, seeded
from plm_core.training.checkpoints import run_folder
from plm_core.training.checks import training_device
from plm_core.training.curve import csv_text
from plm_core.training.finetuning import FinetuneConfig, accuracy
from plm_core.training.micro import FlipAndShift, large_shapes
from plm_core.utils.seeding import seeded_weights

RECIPE = Recipe(epochs=4, batch_size=8, lr=1e-2, warmup_epochs=1, clip_grad=1.0)


class Noisy(torch.utils.data.Dataset):
    """A dataset that draws from all three generators, as augmentations do."""

    def __len__(self):
        return 32

    def __getitem__(self, index):
        noise = torch.randn(4) + np.random.rand() + random.random()
        return {"x": noise + index * 0.1, "y": torch.tensor(index % 3)}


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.GELU(), nn.Linear(8, 3))


def loss(model, batch):
    value = F.cross_entropy(model(batch["x"]), batch["y"])
    return value, {"entropy": value}


def trained(data=None, recipe=RECIPE, **options):
    model = net()
    result = fit(model, data or Noisy(), loss, recipe, log_steps=4, **options)
    return model.state_dict(), result


@pytest.fixture(scope="module")
def reference():
    return trained()


def same(a, b):
    return all(torch.equal(a[key], b[key]) for key in a)


# --- recipes -------------------------------------------------------------------------------------------------


def test_cosine_with_warmup():
    recipe = Recipe(epochs=10, batch_size=1, lr=1.0, warmup_epochs=2, warmup_start=0.1)
    rates = [recipe.lr_factor(step, 100) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10] == pytest.approx(0.55)
    assert rates[20] == 1
    assert rates[60] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0)
    assert all(b < a for a, b in pairwise(rates[20:]))


def test_steps():
    recipe = Recipe(epochs=10, batch_size=1, lr=1.0, schedule="steps", milestones=(0.5, 0.9))
    rates = [recipe.lr_factor(step, 100) for step in (0, 49, 50, 89, 90, 99)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


@given(st.floats(0, 5), st.integers(1, 1000))
def test_rate_is_never_above_the_peak(warmup, steps):
    recipe = Recipe(epochs=5, batch_size=1, lr=1.0, warmup_epochs=warmup)
    assert all(0 <= recipe.lr_factor(step, steps) <= 1 + 1e-12 for step in range(steps))


@pytest.mark.parametrize("bad", [{"epochs": 0}, {"lr": -1}, {"batch_size": 6, "aug_repeats": 4}, {"lr": math.nan}])
def test_impossible_recipe_is_refused(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        Recipe(**{"epochs": 1, "batch_size": 8, "lr": 1e-3, **bad})


@pytest.mark.parametrize("layer_decay", [None, 0.5])
def test_layer_decay_and_weight_decay_follow_the_model(layer_decay):
    import plm_core

    model = plm_core.create_model("hiera_micro_digits")
    recipe = Recipe(epochs=1, batch_size=1, lr=1.0, layer_decay=layer_decay, weight_decay=0.1)
    by_name = {id(p): name for name, p in model.named_parameters()}
    groups = {by_name[id(p)]: group for group in parameter_groups(model, recipe) for p in group["params"]}
    assert groups.keys() == {name for name, _ in model.named_parameters()}
    depth = len(model.blocks)
    expected = {
        "pos_embed": depth + 1,
        "patch_embed.proj.weight": depth + 1,
        "head.fc.weight": 0,
        "head.norm.weight": 0,
    }
    expected |= {f"blocks.{i}.mlp.fc1.weight": depth - i for i in range(depth)}
    rates = {name: (layer_decay or 1.0) ** layers for name, layers in expected.items()}
    assert {name: groups[name]["lr"] for name in expected} == rates
    for name, group in groups.items():
        decayed = name.endswith("weight") and "norm" not in name
        assert group["weight_decay"] == (0.1 if decayed else 0.0), name


def test_vectors_are_not_decayed_in_a_model_that_says_nothing_about_it():
    matrices, vectors = ([p for p in net().parameters() if (p.ndim > 1) == matrix] for matrix in (True, False))
    groups = parameter_groups(net(), Recipe(epochs=1, batch_size=1, lr=1.0, weight_decay=0.1))
    decays = {group["weight_decay"]: [p.shape for p in group["params"]] for group in groups}
    assert decays == {0.0: [p.shape for p in vectors], 0.1: [p.shape for p in matrices]}


@pytest.mark.parametrize("layer_decay", [None, 0.5])
def test_all_parameters_are_decayed_if_the_recipe_says_so(layer_decay):
    import plm_core

    model = plm_core.create_model("hiera_micro_digits")
    model.pos_embed.requires_grad_(False)
    recipe = Recipe(epochs=1, batch_size=1, lr=1.0, weight_decay=0.1, layer_decay=layer_decay, decay_all=True)
    groups = parameter_groups(model, recipe)
    assert {group["weight_decay"] for group in groups} == {0.1}
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters())) - 1
    assert (len({group["lr"] for group in groups}) > 1) == (layer_decay is not None)


def test_layer_decay_needs_a_model_that_knows_its_layers():
    with pytest.raises(InputError, match="group_matcher"):
        parameter_groups(net(), Recipe(epochs=1, batch_size=1, lr=1.0, layer_decay=0.5))


# --- what a setting reaches ----------------------------------------------------------------------------------


class Watch(TrainerCallback):
    """Note the optimiser at each step, and the Trainer's arguments."""

    def __init__(self):
        self.rates = []

    def on_step_begin(self, args, state, control, optimizer, train_dataloader, **_):
        self.args, self.optimizer, self.loader = args, optimizer, train_dataloader
        self.rates.append([group["lr"] for group in optimizer.param_groups])


def test_every_setting_of_a_recipe_reaches_the_training():
    recipe = Recipe(
        epochs=2,
        batch_size=8,
        lr=0.25,
        betas=(0.7, 0.8),
        weight_decay=0.125,
        warmup_epochs=0.5,
        warmup_start=0.2,
        schedule="steps",
        milestones=(0.5,),
        clip_grad=3.0,
        aug_repeats=2,
    )
    model, watch, batches = net(), Watch(), []
    model[0].register_forward_hook(lambda module, args, y: batches.append((len(y), y.dtype)))
    options = {"per_device_batch_size": 4, "num_workers": 1, "precision": "bf16", "seed": 3, "save_steps": 7}
    result = fit(model, Noisy(), loss, recipe, callbacks=[watch], log_steps=1, **options)
    inner = getattr(watch.optimizer, "optimizer", watch.optimizer)
    assert type(inner) is torch.optim.AdamW
    assert {group["weight_decay"] for group in inner.param_groups} == {0, 0.125}
    assert all(group["betas"] == (0.7, 0.8) for group in inner.param_groups)
    assert watch.args.max_grad_norm == 3
    assert (watch.args.seed, watch.args.data_seed, watch.args.save_steps, watch.args.logging_steps) == (3, 3, 7, 1)
    assert watch.loader.num_workers == 1
    assert batches == [(4, torch.bfloat16)] * 16
    assert watch.rates == [[pytest.approx(0.25 * recipe.lr_factor(step, 8))] * 2 for step in range(8)]
    assert [entry["epoch"] for entry in result.history] == [step / 4 for step in range(1, 9)]


def test_sgd_takes_its_momentum_from_the_betas_and_nothing_is_clipped_unless_asked():
    """One step on a gradient of 100 moves the weight by 100 learning rates, or by one if its norm is clipped to 1."""
    for clip, moved in ((None, 100 * 0.5), (1.0, 1 * 0.5)):
        model, watch = nn.Linear(1, 1, bias=False), Watch()
        before = model.weight.item()
        recipe = Recipe(
            epochs=1, batch_size=1, lr=0.5, optimizer="sgd", betas=(0.6, 0.9), weight_decay=0, clip_grad=clip
        )
        data = torch.utils.data.TensorDataset(torch.full((1, 1), 100.0))
        fit(model, data, lambda model, batch: model(batch[0]).sum(), recipe, callbacks=[watch], show=False)
        assert before - model.weight.item() == pytest.approx(moved, rel=1e-4)
        inner = getattr(watch.optimizer, "optimizer", watch.optimizer)
        assert type(inner) is torch.optim.SGD
        assert {group["momentum"] for group in inner.param_groups} == {0.6}


@pytest.fixture
def captured(monkeypatch):
    """Capture what `finetune` gives to `fit`."""
    calls = {}
    monkeypatch.setattr(finetuning, "fit", lambda *args, **options: calls.update(args=args, options=options))
    return calls


def test_without_mixing_labels_are_smoothed(captured):
    config = FinetuneConfig(recipe=RECIPE, mixup=0, cutmix=0, smoothing=0.3)
    model, data = net(), Noisy()
    finetuning.finetune(model, data, config, 3, seed=5)
    assert captured["args"][:2] == (model, data)
    assert captured["args"][3] is RECIPE
    assert captured["options"] == {"seed": 5}
    x, y = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 1, 0])
    value = captured["args"][2](nn.Identity(), (x, y))
    assert value == F.cross_entropy(x, y, label_smoothing=0.3)


def test_the_settings_of_mixing_reach_the_loss(captured, monkeypatch):
    given = []
    monkeypatch.setattr(finetuning, "Mixup", lambda *args, **options: given.append((args, options)) or mixed)

    def mixed(x, y):
        return 2 * x, F.one_hot(y.flip(0), 3).float()

    for mixup, cutmix in ((0.3, 0.0), (0.0, 0.7)):
        config = FinetuneConfig(recipe=RECIPE, mixup=mixup, cutmix=cutmix, smoothing=0.2)
        finetuning.finetune(net(), Noisy(), config, 3)
        assert given.pop() == ((mixup, cutmix), {"label_smoothing": 0.2, "num_classes": 3})
        x, y = torch.randn(4, 3, 1, 1), torch.tensor([0, 1, 2, 2])
        value = captured["args"][2](nn.Flatten(), (x, y))
        assert value == pytest.approx(F.cross_entropy(2 * x.flatten(1), y.flip(0)).item())


def test_the_settings_of_augmentation_reach_the_preprocessing(monkeypatch):
    given = {}
    monkeypatch.setattr(finetuning, "create_transform", lambda size, **options: given.update(size=size, **options))
    config = FinetuneConfig(recipe=RECIPE, auto_augment="rand-m7", scale=(0.3, 0.9), hflip=0.2)
    finetuning.finetune_transform((24, 32), config, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert given == {
        "size": (3, 24, 32),
        "is_training": True,
        "scale": (0.3, 0.9),
        "hflip": 0.2,
        "color_jitter": None,
        "auto_augment": "rand-m7",
        "interpolation": "bicubic",
        "mean": (0.1, 0.2, 0.3),
        "std": (0.4, 0.5, 0.6),
    }


# --- runs ----------------------------------------------------------------------------------------------------


def test_it_learns_and_logs_its_parts():
    class Easy(Noisy):
        def __getitem__(self, index):
            return {"x": F.one_hot(torch.tensor(index % 3), 4).float(), "y": torch.tensor(index % 3)}

    _, result = trained(Easy(), Recipe(epochs=30, batch_size=8, lr=3e-2))
    first, last = result.history[0], result.history[-1]
    assert last["loss"] < 0.3 * first["loss"]
    assert last["entropy"] == pytest.approx(last["loss"], rel=1e-5)


def test_same_seed_same_weights_whatever_the_number_of_workers(reference):
    again, _ = trained(num_workers=1)
    assert same(reference[0], again)
    assert not same(reference[0], trained(seed=1)[0])


class Kill(BaseException):
    pass


class Steps:
    """Record the optimiser steps of a training."""

    def __init__(self):
        self.steps = []

    def callback(self):
        from transformers import TrainerCallback

        steps = self.steps

        class Record(TrainerCallback):
            def on_step_end(self, args, state, control, **_):
                steps.append(state.global_step)

        return Record()


def killer(step):
    from transformers import TrainerCallback

    class Killer(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            if state.global_step == step:
                raise Kill

    return Killer()


@pytest.mark.parametrize("step", [5, 8, 14])  # inside an epoch, at its end, after more than one checkpoint
def test_killed_and_resumed_equals_an_undisturbed_run(reference, tmp_path, step):
    with pytest.raises(Kill):
        trained(out=tmp_path, save_steps=3, callbacks=[killer(step)])
    (tmp_path / "checkpoint-99").mkdir()  # as in a copy that was not finished
    (tmp_path / "checkpoint-99" / "trainer_state.json").write_text('{"global_st')
    taken = Steps()
    resumed, result = trained(out=tmp_path, save_steps=3, resume=True, callbacks=[taken.callback()])
    assert taken.steps == list(range(3 * (step // 3) + 1, 17))
    assert same(reference[0], resumed)
    assert [entry["step"] for entry in result.history] == [entry["step"] for entry in reference[1].history]
    columns, expected = (csv_text(history).splitlines()[0] for history in (result.history, reference[1].history))
    assert columns == expected
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-15", "checkpoint-16"}


def test_a_kill_before_old_checkpoints_were_removed_leaves_no_third(tmp_path):
    trained(out=tmp_path, save_steps=1)
    shutil.copytree(tmp_path / "checkpoint-15", tmp_path / "checkpoint-14")
    trained(out=tmp_path, save_steps=1, resume=True)  # has no step to take, so it writes no checkpoint
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-15", "checkpoint-16"}


def test_two_trainings_do_not_share_a_folder(tmp_path, one_line):
    with run_folder(tmp_path / "out", resume=False), one_line(InputError, "is in use by another training"):
        trained(out=tmp_path / "out", resume=True)
    trained(out=tmp_path / "out", max_steps=1)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["checkpoint-1"]  # nor is the lock left


def test_a_training_that_has_taken_its_steps_takes_no_more(tmp_path, one_line):
    trained(out=tmp_path, max_steps=5)
    with one_line(InputError, "max_steps 5 is not allowed: more than 5, the steps taken so far, is"):
        trained(out=tmp_path, max_steps=5, resume=True)


def test_trainings_in_threads_take_turns_also_with_new_models(reference):
    models = [net() for _ in range(3)]

    def numbers(_):
        with seeded_weights(0):
            return torch.cat([torch.rand(1) for _ in range(3000)])

    with ThreadPoolExecutor(4) as pool:
        drawn = pool.map(numbers, range(30))
        list(pool.map(lambda model: fit(model, Noisy(), loss, RECIPE, show=False), models))
        first, *others = drawn
    assert all(torch.equal(first, other) for other in others)
    assert all(same(reference[0], model.state_dict()) for model in models)


@pytest.mark.parametrize("at_once", [None, 4, 2])
def test_an_epoch_has_whole_batches_whatever_is_accumulated(at_once):
    """32 samples are two batches of 12, and each epoch leaves out others."""
    data, seen = Noisy(), []
    data.__class__ = type(
        "Watched", (Noisy,), {"__getitem__": lambda self, i: seen.append(i) or Noisy.__getitem__(self, i)}
    )
    recipe = Recipe(epochs=2, batch_size=12, lr=1e-3)
    result = fit(net(), data, loss, recipe, per_device_batch_size=at_once, log_steps=1, show=False)
    assert [entry["step"] for entry in result.history] == [1, 2, 3, 4]
    first, second = set(seen[:24]), set(seen[24:])
    assert len(first) == len(second) == 24
    assert first != second


def test_a_warm_up_of_less_than_a_step_wastes_none():
    recipe = Recipe(epochs=2, batch_size=1, lr=1.0, warmup_epochs=0.5)
    assert recipe.lr_factor(0, 2) == 1.0
    assert recipe.lr_factor(0, 8) == 0.0


def test_accumulated_batches_equal_whole_ones():
    class Still(Noisy):
        def __getitem__(self, index):
            return {"x": torch.full((4,), index * 0.1), "y": torch.tensor(index % 3)}

    def run(**options):
        model = nn.Sequential(nn.Linear(4, 3))
        nn.init.constant_(model[0].weight, 0.1)
        nn.init.zeros_(model[0].bias)
        fit(model, Still(), loss, RECIPE, **options)
        return model[0].weight

    torch.testing.assert_close(run(per_device_batch_size=2), run(), rtol=1e-5, atol=1e-6)


def test_repeated_augmentation_puts_several_draws_of_a_sample_into_a_batch():
    batches = []

    def spy(model, batch):
        batches.append(batch)
        return loss(model, batch)[0]

    fit(net(), Noisy(), spy, Recipe(epochs=2, batch_size=8, lr=1e-3, aug_repeats=2), max_steps=2)
    for batch in batches:
        assert batch["y"].tolist()[0::2] == batch["y"].tolist()[1::2]
        assert len(batch["y"]) == 8
        assert not torch.equal(batch["x"][0::2], batch["x"][1::2])


def test_seeded_leaves_the_generators_alone():
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    expected = torch.rand(2).tolist(), random.random(), np.random.rand()
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    with seeded(1, 2, 3):
        first = torch.rand(2).tolist(), random.random(), np.random.rand()
    assert (torch.rand(2).tolist(), random.random(), np.random.rand()) == expected
    with seeded(1, 2, 3):
        assert (torch.rand(2).tolist(), random.random(), np.random.rand()) == first
    with seeded(1, 3, 2):
        assert torch.rand(2).tolist() != first[0]


# --- evaluation ----------------------------------------------------------------------------------------------


class Probe:
    """An evaluation that uses the model and all generators, and remembers how it was called."""

    def __init__(self):
        self.modes, self.draws, self.gradients = [], [], []

    def __call__(self, model):
        self.modes.append([module.training for module in model.modules()])
        self.draws.append((torch.rand(()).item(), np.random.rand(), random.random()))
        self.gradients.append(model(torch.ones_like(model[0].weight)).requires_grad)
        model.train()
        return {"val score": model[0].weight.sum()}


def test_an_evaluated_training_equals_one_that_is_not(reference):
    weights, result = trained(evaluate=(probe := Probe()))
    assert same(reference[0], weights)
    scores = [entry.pop("val score") for entry in result.history]
    assert result.history == reference[1].history  # the log_steps of both are one epoch
    assert scores[-1] == pytest.approx(weights["0.weight"].sum().item())
    assert len(set(scores)) == len(scores) == 4
    assert probe.modes == [[False] * 5] * 4
    assert probe.gradients == [False] * 4
    assert len(set(probe.draws)) == 1  # a random score changes with the model only


@pytest.mark.parametrize(
    ("every", "options", "steps"),
    [
        (0.5, {}, [2, 4, 6, 8, 10, 12, 14, 16]),
        (1.5, {}, [6, 12, 16]),
        (math.inf, {}, [16]),
        (1.0, {"max_steps": 6}, [4, 6]),
        (1 / 3, {"max_steps": 4}, [2, 3, 4]),
    ],
)
def test_evaluations_are_so_many_epochs_apart_and_one_is_at_the_end(every, options, steps):
    _, result = trained(evaluate=Probe(), evaluate_every=every, **options)
    evaluated = [entry for entry in result.history if "val score" in entry]
    assert [entry["step"] for entry in evaluated] == steps
    assert [entry["epoch"] for entry in evaluated] == [step / 4 for step in steps]
    assert all("loss" in entry for entry in result.history)


def test_an_epoch_of_the_history_is_one_of_the_recipe():
    recipe = Recipe(epochs=4, batch_size=8, lr=1e-2, aug_repeats=2)
    _, result = trained(recipe=recipe, evaluate=Probe())
    assert [(entry["step"], entry["epoch"]) for entry in result.history] == [(4, 1), (8, 2), (12, 3), (16, 4)]


def test_a_resumed_history_is_whole(tmp_path):
    _, whole = trained(evaluate=Probe())
    trained(evaluate=Probe(), out=tmp_path, max_steps=8)
    _, resumed = trained(evaluate=Probe(), out=tmp_path, resume=True)
    assert resumed.history == whole.history


def test_the_logged_learning_rate_is_that_of_the_recipe():
    import plm_core

    model = plm_core.create_model("hiera_micro_digits")
    data = torch.utils.data.TensorDataset(torch.rand(8, 3, *model.input_size))
    recipe = Recipe(epochs=2, batch_size=4, lr=1e-3, layer_decay=0.5)
    result = fit(model, data, lambda model, batch: model(batch[0]).square().mean(), recipe, log_steps=1)
    expected = [1e-3 * recipe.lr_factor(step, 4) for step in range(4)]
    assert [entry["learning_rate"] for entry in result.history] == pytest.approx(expected)


def test_accuracy_restores_the_mode_of_each_module():
    model = net()
    model[1].eval()
    data = torch.utils.data.TensorDataset(torch.rand(6, 4), torch.zeros(6, dtype=torch.int64))
    accuracy(model, data)
    assert [module.training for module in model] == [True, False, True, True]


@pytest.mark.parametrize("name", ["loss", "epoch", "entropy"])
def test_a_score_with_the_name_of_another_value_is_refused(name):
    with pytest.raises(InputError, match=f"evaluate returned '{name}', which is the name of another logged value"):
        trained(evaluate=lambda model: {name: 1})


def test_evaluate_every_must_be_positive():
    with pytest.raises(InputError, match="evaluate_every 0 is not allowed: more than 0 is"):
        trained(evaluate=Probe(), evaluate_every=0)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        *((name, None) for name in ("cuda", "cuda:0", "cpu", "auto")),
        ("mps", "cannot be trained on: auto, cpu and"),
        ("cuda:1", "hide the others, as in CUDA_VISIBLE_DEVICES=1"),
    ],
)
def test_a_training_runs_on_the_cpu_or_the_first_accelerator(monkeypatch, name, said):
    there = {"auto": torch.device("cuda")}
    monkeypatch.setattr("plm_core.utils.devices.pick_device", lambda name: there.get(name) or torch.device(name))
    if said is None:
        assert training_device(name).type == ("cpu" if name == "cpu" else "cuda")
    else:
        with pytest.raises(InputError, match=f"device '{name}' .*{said}"):
            training_device(name)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_trainer_leaves_the_accelerator_to_others_if_asked_to(monkeypatch, device):
    """Nothing may look at an accelerator that is not there, so the Trainer's settings are only looked at."""
    from plm_core.training import arguments

    asked = {}
    monkeypatch.setattr(arguments, "training_device", torch.device)
    monkeypatch.setattr(
        arguments, "TrainingArguments", lambda **settings: asked.update(settings) or SimpleNamespace(n_gpu=0)
    )
    options = {"per_device_batch_size": None, "precision": "fp32", "fsdp": False, "device": device}
    arguments.training_arguments(net(), RECIPE, Path("run"), **options)
    assert asked["use_cpu"] is (device == "cpu")


# --- reports -------------------------------------------------------------------------------------------------


def pretended(monkeypatch):
    """Make the Trainer and us believe that the packages are there, and record what the Trainer is told."""
    from transformers import TrainerCallback
    from transformers.integrations import integration_utils

    told = []

    class Report(TrainerCallback):
        def on_train_begin(self, args, state, control, **_):
            told.append((args.report_to, args.output_dir, args.run_name))

        def on_log(self, args, state, control, logs, **_):
            told.append(integration_utils.rewrite_logs(logs))

    monkeypatch.setattr("plm_core.training.arguments.installed", lambda package: True)
    for name in ("tensorboard", "wandb"):
        monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, name, Report)
    return told


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_values_and_scores_are_reported(monkeypatch, tmp_path, name):
    told = pretended(monkeypatch)
    _, result = trained(report_to=(name,), out=tmp_path / "run", evaluate=Probe(), max_steps=4)
    assert told[0] == ([name], str(tmp_path / "run"), "run")
    loss, score = told[1:3]
    assert loss["train/loss"] == result.history[0]["loss"]
    assert score["eval/val score"] == result.history[0]["val score"]


def test_tensorboard_files_are_in_the_folder(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, result = trained(report_to="tensorboard", out=tmp_path, evaluate=Probe())
    (events,) = tmp_path.glob("runs/*/events*")
    read = EventAccumulator(str(events)).Reload()
    for tag, name in (("train/loss", "loss"), ("train/entropy", "entropy"), ("eval/val score", "val score")):
        values = [(event.step, event.value) for event in read.Scalars(tag)]
        assert values == [(entry["step"], pytest.approx(entry[name])) for entry in result.history]


def test_nothing_is_reported_unless_asked(monkeypatch, tmp_path):
    told = pretended(monkeypatch)
    trained(out=tmp_path, max_steps=1)
    assert not told


def test_a_report_that_cannot_be_made_is_refused_before_anything_is_written(monkeypatch, tmp_path, one_line):
    with one_line(InputError, "report_to 'tensorbord' is not allowed: tensorboard, wandb are"):
        trained(report_to=("tensorbord",), out=tmp_path / "run")
    monkeypatch.setattr("plm_core.training.arguments.installed", lambda package: False)
    with one_line(MissingDependency, "report_to 'wandb' needs a package that is not installed: install wandb"):
        trained(report_to=("wandb",), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    pretended(monkeypatch)
    with one_line(InputError, "report_to 'tensorboard' writes into the folder out, which is None"):
        trained(report_to=("tensorboard",))


# --- bad input -----------------------------------------------------------------------------------------------


def test_nan_pixels_stop_the_training_with_the_batch_named():
    class Broken(Noisy):
        def __getitem__(self, index):
            item = super().__getitem__(index)
            if index == 13:
                item["x"][2] = math.nan
            return item

    with pytest.raises(InputError, match=r"batch of samples \[.*13.*\]: sample 13 has NaN or infinite values in x"):
        trained(Broken())


def test_a_loss_that_is_not_finite_stops_the_training():
    with pytest.raises(InputError, match=r"the loss is inf at step 0, samples \[\d+"):
        fit(net(), Noisy(), lambda model, batch: model(batch["x"]).square().sum() * math.inf, RECIPE)


def test_batch_larger_than_the_data_is_refused():
    with pytest.raises(InputError, match="batch_size 64 is larger than the data, 32 samples"):
        trained(recipe=Recipe(epochs=1, batch_size=64, lr=1e-3))


def test_batch_that_does_not_divide_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(InputError, match="batch_size 8 does not divide over 3 processes"):
        trained()
    monkeypatch.delenv("WORLD_SIZE")
    with pytest.raises(InputError, match="per_device_batch_size 3"):
        trained(per_device_batch_size=3)


# --- micro models --------------------------------------------------------------------------------------------


def test_a_plain_config_leaves_out_what_small_models_cannot_use():
    config = FinetuneConfig.plain(RECIPE)
    assert (config.drop_path, config.auto_augment, config.mixup, config.cutmix) == (0, None, 0, 0)
    assert (config.recipe, config.smoothing, config.hflip) == (RECIPE, 0.1, 0.5)


def test_large_shapes_are_the_scenes_of_one_large_shape():
    images, labels = large_shapes("heldout", size=32, count=4)
    world = shapes.Images("heldout", size=32, count=32, objects=(1, 1), background="plain")
    large = [scene for scene in world if scene.objects[0].size == "large"][:4]
    assert torch.equal(images, torch.stack([torch.from_numpy(scene.image).permute(2, 0, 1) for scene in large]))
    assert [shapes.SHAPES[label] for label in labels] == [scene.objects[0].shape for scene in large]


def test_flip_and_shift_moves_pixels_around_the_edges():
    x = torch.arange(2 * 6 * 6).view(2, 6, 6)
    torch.manual_seed(0)
    augmented = [FlipAndShift(1)(x) for _ in range(300)]
    shifts = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    possible = [y.roll(shift, (-2, -1)) for y in (x, x.flip(-1)) for shift in shifts]
    assert {next(i for i, y in enumerate(possible) if torch.equal(y, z)) for z in augmented} == set(range(18))
