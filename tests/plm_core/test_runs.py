"""`plm train`: every option reaches the optimiser, the data, the loss or the model, and errors write nothing."""

import json
import shlex
import shutil
import signal
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

import plm_core
from plm_core import weights
from plm_core.runs import Job, train
from plm_core.runs.request import request_of
from plm_core.training import TrainResult

MODEL = "hiera_micro_shapes"
ONE_STEP = ["--model", MODEL, "--set", "batch_size=16", "--max-steps", "1"]


class Spy:
    """What a training was given, as the first call of its loss sees it."""

    def __init__(self):
        self.calls = []
        self.interrupt_at = 0

    def note(self, trainer, model, inputs):
        state = {key: value.clone() for key, value in model.state_dict().items()}
        call = {"trainer": trainer, "model": model, "x": inputs["batch"][0], "state": state}
        linear = next(module for module in model.modules() if isinstance(module, torch.nn.Linear))
        linear.register_forward_hook(lambda module, args, y: call.update(dtype=y.dtype))
        self.calls.append(call)
        if len(self.calls) == self.interrupt_at:
            signal.raise_signal(signal.SIGINT)

    @property
    def first(self):
        return self.calls[0]

    @property
    def groups(self):
        return self.first["trainer"].optimizer.param_groups


@pytest.fixture
def spy(monkeypatch):
    from plm_core.training.trainer import RecipeTrainer

    spy, compute = Spy(), RecipeTrainer.compute_loss

    def compute_loss(self, model, inputs, *args, **kwargs):
        spy.note(self, model, inputs)
        return compute(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(RecipeTrainer, "compute_loss", compute_loss)
    return spy


@pytest.fixture
def finetune(plm, pictures, tmp_path):
    """Return a function that runs ``plm train finetune`` for one step, and returns its folder."""

    def run(*words, out="run"):
        result = plm("train", "finetune", pictures, "--out", tmp_path / out, *ONE_STEP, *words)
        assert result.code == 0, result.err
        return tmp_path / out

    return run


# --- options ---------------------------------------------------------------------------------------------------


def test_settings_reach_the_optimiser_and_the_batches(finetune, spy):
    finetune("--set", "lr=0.25", "--set", "weight_decay=0.125", "--set", "layer_decay=None", "--set", "warmup_epochs=0")
    assert {group["initial_lr"] for group in spy.groups} == {0.25}
    assert {group["weight_decay"] for group in spy.groups} == {0, 0.125}
    assert spy.first["trainer"].args.per_device_train_batch_size == 16


class Stop(plm_core.InputError):
    pass


@pytest.fixture
def stopped(monkeypatch):
    """Return a function that runs `train` up to the training, and returns what that is given."""

    def run(*args, **options):
        def stop(*args, **options):
            calls.append((args, options))
            raise Stop

        calls = []
        monkeypatch.setattr("plm_core.runs.classification.finetune", stop)
        with pytest.raises(Stop):
            train(*args, **options)
        return calls[0]

    return run


def test_every_setting_and_option_reaches_the_training(stopped, pictures, tmp_path):
    """What `finetune` and `fit` do with it is tested in test_training.py."""
    settings = {"epochs": 3, "batch_size": 12, "lr": 0.1, "optimizer": "sgd", "betas": (0.7, 0.8), "clip_grad": 2.5}
    settings |= {"weight_decay": 0.3, "warmup_epochs": 1.5, "warmup_start": 0.25, "layer_decay": 0.6, "aug_repeats": 2}
    settings |= {"schedule": "steps", "milestones": (0.5, 0.75), "decay_all": True}
    own = {"drop_path": 0.2, "dropout": 0.4, "auto_augment": "rand-m3", "mixup": 0.3, "cutmix": 0.6, "smoothing": 0.2}
    own |= {"scale": (0.4, 0.8), "hflip": 0.1}
    options = {"seed": 5, "precision": "bf16", "max_steps": 7, "save_steps": 9, "per_device_batch_size": 4}
    options |= {"num_workers": 2, "fsdp": True, "report_to": ("wandb",), "resume": False, "out": tmp_path / "out"}
    (model, data, config, num_classes), given = stopped(
        "finetune", pictures, model=MODEL, pretrained=False, settings=settings | own, **options
    )
    assert vars(config.recipe) == settings
    assert vars(config) == {"recipe": config.recipe, **own}
    assert {name: given[name] for name in options} == options
    assert num_classes == 3
    assert len(data) == 48
    assert model.blocks[-1].drop_path1.drop_prob == pytest.approx(0.2)
    assert [module.p for module in model.modules() if isinstance(module, torch.nn.Dropout) and module.p] == [0.4]
    augment = repr(data.preprocess)
    assert "scale=(0.4, 0.8)" in augment
    assert "RandomHorizontalFlip(p=0.1)" in augment


def test_settings_of_a_video_training_reach_it(stopped, videos, tmp_path):
    settings = {"batch_size": 4, "drop_path": 0.2, "dropout": 0.4, "scale": (0.4, 0.8), "hflip": 0.1}
    (model, data, config, num_classes), given = stopped(
        "hiera-finetune-video",
        videos,
        tmp_path / "out",
        pretrained=False,
        model="hiera_micro_motions",
        settings=settings,
    )
    assert {name: getattr(config, name, config.recipe.batch_size) for name in settings} == settings
    assert model.blocks[-1].drop_path1.drop_prob == pytest.approx(0.2)
    assert [module.p for module in model.modules() if isinstance(module, torch.nn.Dropout) and module.p] == [0.4]
    assert (num_classes, len(data), given["seed"]) == (2, 8, 0)
    assert data[0][0].shape == (3, 8, 32, 32)


def test_a_preset_is_chosen_by_the_model_or_by_name(finetune, untrained):
    record = json.loads((finetune() / "training.json").read_text())
    assert (record["preset"], record["config"]["recipe"]["epochs"]) == ("micro", 20)
    record = json.loads((finetune("--preset", "mae_large", out="large") / "training.json").read_text())
    assert (record["preset"], record["config"]["drop_path"]) == ("mae_large", 0.2)


def test_the_list_of_settings_says_whose_they_are(plm):
    result = plm("train", "finetune", "--list")
    assert result.out.splitlines()[0] == "setting\tdefault\tother presets"
    assert ["mixup", "0.0", "0.8 (deit, mae_base, mae_large, mae_huge)"] in result.rows
    assert result.err == "preset default, that of most models; --preset and --model show another\n"
    for words, said in (
        (["finetune", "--model", "random:hiera_micro_digits"], "preset micro, that of random:hiera_micro_digits;"),
        (["finetune", "--preset", "deit"], "preset deit, as asked for;"),
        (["tome-finetune"], "preset deit_tiny_r13, the first one;"),
        (["finetune", "--preset", "deiT"], "preset 'deiT' is not allowed for recipe 'finetune': default, micro, deit"),
    ):
        assert said in plm("train", *words, "--list").err


def test_random_in_the_name_of_a_model(stopped, pictures, tmp_path):
    (model, *_), _ = stopped("finetune", pictures, tmp_path / "a", model=f"random:{MODEL}", settings={"epochs": 1})
    assert not torch.equal(model.pos_embed, plm_core.create_model(MODEL, pretrained=True).pos_embed)
    with pytest.raises(plm_core.InputError, match="asks for random weights, and pretrained for others: choose one"):
        train("finetune", pictures, tmp_path / "b", model=f"random:{MODEL}", pretrained=True)


def test_the_score_is_named_after_the_split(plm, pictures, tmp_path, untrained):
    (tmp_path / "data").mkdir()
    for split, name in (("train", "train"), ("val", "Test")):
        (tmp_path / "data" / name).symlink_to(pictures / split)
    result = plm("train", "finetune", tmp_path / "data", "--out", tmp_path / "run", *ONE_STEP)
    assert result.scores.keys() == {"test top-1 %"}
    card = (tmp_path / "run" / "README.md").read_text()
    assert "- **test top-1 %**: " in card
    assert "scored on 9 images of the split Test" in card
    assert f"once `plm_core` is imported, which knows `{MODEL}`" in card


def test_the_model_and_its_keywords(finetune, spy):
    folder = finetune("--model-kwargs", "img_size=48", "--model-kwargs", "global_pool=avg")
    assert spy.first["x"].shape == (16, 3, 48, 48)
    again = plm_core.create_model(str(folder), pretrained=True)
    assert again.input_size == (48, 48)
    assert plm_core.transform_for(again)(plm_core.samples.photo("china")).shape == (3, 48, 48)


def test_where_the_weights_start(finetune, spy, tmp_path):
    shipped = plm_core.create_model(MODEL, pretrained=True).state_dict()
    other = plm_core.create_model(MODEL)
    weights.save(other, tmp_path / "other.safetensors")
    finetune()
    finetune("--random", out="random")
    finetune("--weights", tmp_path / "other.safetensors", out="weights")
    name = "blocks.0.mlp.fc1.weight"
    started = [call["state"][name] for call in spy.calls]
    assert torch.equal(started[0], shipped[name])
    assert not torch.equal(started[1], shipped[name])
    assert torch.equal(started[2], other.state_dict()[name])
    assert spy.calls[2]["state"]["head.fc.weight"].shape == (3, 64)


def test_the_weights_of_a_declaration_and_of_the_hub(tmp_path, hub_double):
    job = Job(recipe="finetune", data="", out=tmp_path, model="hiera_micro_digits", preset="", config=None)
    shipped = plm_core.create_model("hiera_micro_digits", pretrained=True)
    weights.save(shipped, tmp_path / "model.safetensors")
    hub_double.add("org/name", {"model.safetensors": tmp_path / "model.safetensors"})
    for source in ("hiera_micro_digits.sklearn_digits", "hf-hub:org/name", str(tmp_path)):
        model = replace(job, weights=source).create(num_classes=10)
        assert torch.equal(model.pos_embed, shipped.pos_embed)
        assert not torch.equal(model.head.fc.weight, shipped.head.fc.weight)
        named = request_of(replace(job, weights=source))["weights"]
        assert named == (source if source != str(tmp_path) else tmp_path.name)  # no paths of this machine


def test_a_classifier_of_other_classes_is_not_kept(plm, pictures, tmp_path, spy, caplog):
    assert plm("train", "finetune", pictures, "--out", tmp_path / "three", *ONE_STEP).code == 0
    assert "classifier" not in caplog.text  # eight classes became three, which is no surprise
    for split in ("train", "val"):
        for old, new in (("circle", "acorn"), ("cross", "bolt"), ("star", "cone")):
            shutil.copytree(pictures / split / old, tmp_path / "others" / split / new)
    start = plm_core.create_model(tmp_path / "three", pretrained=True).state_dict()
    for data, said in ((pictures, "kept, whose 3 classes have the same names"), (tmp_path / "others", "a new one")):
        caplog.clear()
        command = ["train", "finetune", data, "--out", tmp_path / f"of_{data.name}", *ONE_STEP]
        assert plm(*command, "--model", tmp_path / "three").code == 0
        assert said in caplog.text
        state = spy.calls[-1]["state"]
        changed = {name for name in start if not torch.equal(state[name], start[name])}
        assert changed == (set() if data is pictures else {"head.fc.weight"})


def test_the_classes_of_an_imagenet_are_known_by_their_synsets_and_in_words():
    from timm.data import ImageNetInfo

    from plm_core.models import class_names

    synsets, words = class_names(plm_core.create_model("test_vit"))
    assert (len(synsets), synsets[0], words[0]) == (1000, "n01440764", ImageNetInfo().index_to_description(0))
    assert class_names(plm_core.create_model("test_vit", num_classes=0)) == [synsets, words]  # those of its weights


def test_seed(finetune, spy):
    for out, seed in (("a", 0), ("b", 0), ("c", 1)):
        finetune("--seed", seed, out=out)
    a, b, c = spy.calls
    assert torch.equal(a["x"], b["x"])
    assert not torch.equal(a["x"], c["x"])
    head = "head.fc.weight"
    assert torch.equal(a["state"][head], b["state"][head])
    assert not torch.equal(a["state"][head], c["state"][head])


def test_batches_workers_and_precision(finetune, spy):
    finetune("--per-device-batch-size", 8, "--num-workers", 1, "--precision", "bf16")
    trainer = spy.first["trainer"]
    assert [len(call["x"]) for call in spy.calls] == [8, 8]
    assert trainer.args.gradient_accumulation_steps == 2
    assert trainer.get_train_dataloader().num_workers == 1
    assert spy.first["dtype"] is torch.bfloat16
    finetune(out="plain")
    assert spy.calls[2]["dtype"] is torch.float32


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_under_autocast_weights_stay_float32(finetune, precision):
    folder = finetune("--precision", precision)
    assert {value.dtype for value in load_file(folder / "model.safetensors").values()} == {torch.float32}


def test_fsdp_and_report_to_reach_the_trainer(plm, pictures, tmp_path, monkeypatch):
    """tests/hiera/test_distributed.py trains with fsdp; here there is one process, which has nothing to shard."""
    from plm_core.training import arguments

    seen = {}

    def stop(*args, **kwargs):
        seen.update(kwargs)
        raise plm_core.InputError("seen")

    monkeypatch.setattr(arguments, "training_arguments", stop)
    monkeypatch.setenv("WORLD_SIZE", "2")
    words = ["train", "finetune", pictures, "--out", tmp_path / "out", *ONE_STEP]
    monkeypatch.setattr(arguments, "installed", lambda name: True)
    assert plm(*words, "--fsdp", "--report-to", "wandb").err == "plm: error: seen\n"
    assert seen["fsdp"] is True
    assert seen["report_to"] == ["wandb"]


def test_a_transform_trains_and_the_folder_holds_the_plain_model(plm, pictures, tmp_path, spy):
    model = ["--model", "tome_micro_shapes", "--set", "batch_size=16", "--max-steps", 1]
    result = plm("train", "finetune", pictures, "--out", tmp_path / "run", *model, "--transform", "tome:r=16")
    assert result.code == 0, result.err
    assert spy.first["model"].__dict__["_plm_transforms"] == ["tome"]
    assert result.scores.keys() == {"val top-1 %", "val top-1 % with tome:r=16"}
    assert json.loads((tmp_path / "run" / "training.json").read_text())["transforms"] == ["tome:r=16"]
    assert "_plm_transforms" not in plm_core.create_model(str(tmp_path / "run"), pretrained=True).__dict__


def test_checkpoints_steps_and_resuming(finetune, plm, pictures, tmp_path):
    words = ["train", "finetune", pictures, "--model", MODEL, "--set", "batch_size=16", "--set", "epochs=2"]
    words += ["--set", "warmup_epochs=0", "--save-steps", 2]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert plm(*words, "--out", whole).code == 0
    assert {path.name for path in whole.glob("checkpoint-*")} == {"checkpoint-4", "checkpoint-6"}
    assert plm(*words, "--out", parts, "--max-steps", 3).code == 0
    for changed, said in {
        ("--set", "lr=0.5"): "lr 0.5 is not that of the training",
        ("--precision", "bf16"): "precision 'bf16' is not that of the training",
        ("--seed", "7"): "seed 7 is not that of the training",
        ("--random",): "pretrained False is not that of the training",
    }.items():
        assert said in plm(*words, "--out", parts, "--resume", *changed).err
    assert json.loads((parts / "training.json").read_text())["steps"] == 3
    again = "has checkpoints of this training: go on with it (resume=True, or --resume), or choose another folder"
    assert again in plm(*words, "--out", parts).err
    (parts / "config.json").unlink()  # as if the training were not finished
    assert again in plm(*words, "--out", parts).err
    other = plm(*words, "--out", parts, "--set", "lr=0.5").err
    assert "has checkpoints of another training, with lr 0.001 instead of 0.5: choose another folder" in other
    assert plm(*words, "--out", parts, "--resume").code == 0
    a, b = (load_file(out / "model.safetensors") for out in (whole, parts))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_first_start_with_resume_says_that_there_was_nothing(plm, pictures, tmp_path, caplog):
    words = ["train", "finetune", pictures, *ONE_STEP, "--out", tmp_path / "run", "--resume"]
    assert plm(*words).code == 0
    said = f"nothing to resume: {tmp_path / 'run'} has no checkpoint, so the training starts from the beginning"
    assert said in caplog.text
    (tmp_path / "run" / "training.json").unlink()
    assert "training.json is missing, so the training in" in plm(*words[:-1]).err


def test_ctrl_c_leaves_a_training_to_go_on_with(plm, pictures, tmp_path, spy):
    words = ["train", "finetune", pictures, "--model", MODEL, "--set", "batch_size=16", "--set", "epochs=2"]
    spy.interrupt_at = 3
    result = plm(*words, "--out", tmp_path / "run")
    assert result.code == 130
    assert "interrupted by SIGINT after 3 of 6 steps" in result.err
    assert result.err.rstrip().endswith("/checkpoint-3: run the same command with --resume")
    unfinished = plm("predict", tmp_path / "run", pictures / "val")
    assert "its training is not finished; the same plm train command with --resume goes on" in unfinished.err
    assert plm(*words, "--out", tmp_path / "run", "--resume").code == 0
    assert len(spy.calls) == 6
    assert json.loads((tmp_path / "run" / "training.json").read_text())["steps"] == 6


def test_a_tracker_that_is_not_known_is_named(plm, pictures, tmp_path, monkeypatch):
    result = plm("train", "finetune", pictures, "--out", tmp_path / "out", *ONE_STEP, "--report-to", "tensorbord")
    assert result.code == 2
    assert "report_to" in result.err
    assert "tensorboard" in result.err


def test_a_training_is_not_resumed_with_other_data(plm, pictures, tmp_path):
    words = ["--model", MODEL, "--set", "batch_size=8", "--out", tmp_path / "run"]
    data = tmp_path / "pictures"
    shutil.copytree(pictures, data)
    assert plm("train", "finetune", data, *words, "--max-steps", 1).code == 0
    before = (tmp_path / "run" / "config.json").read_bytes()
    for split in ("train", "val"):
        shutil.rmtree(data / split / "cross")
    result = plm("train", "finetune", data, *words, "--resume")
    assert "is not that of the training in" in result.err
    assert "48 images of 3 classes" in result.err
    assert (tmp_path / "run" / "config.json").read_bytes() == before


def test_the_batch_size_follows_small_data(plm, pictures, tmp_path, spy, caplog):
    assert plm("train", "finetune", pictures, "--out", tmp_path / "run", "--model", MODEL, "--max-steps", 1).code == 0
    assert "batch_size follows the data, 48 samples: 64 -> 32" in caplog.text
    assert len(spy.first["x"]) == 32


def test_a_folder_in_use_or_without_its_record_is_refused_at_once(plm, pictures, tmp_path, monkeypatch):
    from plm_core.training.checkpoints import run_folder

    out = tmp_path / "run"
    monkeypatch.setattr("plm_core.runs.classification.load_splits", None)  # nothing is read
    with run_folder(out, resume=False):
        assert "is in use by another training" in plm("train", "finetune", pictures, "--out", out, *ONE_STEP).err
    (out / "checkpoint-3").mkdir()
    for record, said in ((None, "is missing"), ('{"seed"', "cannot be read"), ("[]", "cannot be read")):
        if record is not None:
            (out / "training.json").write_text(record)
        result = plm("train", "finetune", pictures, "--out", out, "--resume", *ONE_STEP)
        assert (result.code, result.err.count("\n")) == (2, 1)
        assert f"training.json {said}" in result.err


def test_nothing_is_overwritten_and_the_data_stays_data(plm, pictures, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("precious")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    for name in ("cats", "dogs", "emus", "foxes"):
        (tmp_path / "data" / name).mkdir(parents=True)
    neither = "is neither empty nor the folder of a training: it holds cats, dogs, emus and 1 more; choose another"
    for out, said in {
        tmp_path / "mine": "has files that would be overwritten (README.md)",
        tmp_path / "model": "holds a model already: choose another folder",
        tmp_path / "data": neither,
        pictures: "lies in the data",
        pictures / "train" / "run": "lies in the data",
    }.items():
        assert said in plm("train", "finetune", pictures, "--out", out, *ONE_STEP).err
    resumed = plm("train", "finetune", pictures, "--out", tmp_path / "mine", *ONE_STEP, "--resume")
    assert "has files that would be overwritten (README.md)" in resumed.err
    assert (tmp_path / "mine" / "README.md").read_text() == "precious"
    assert neither in plm("train", "finetune", pictures, "--out", tmp_path / "data", *ONE_STEP, "--resume").err
    assert len(list((tmp_path / "data").iterdir())) == 4


def test_a_log_or_what_a_killed_start_left_does_not_fill_a_folder(stopped, pictures, tmp_path):
    for name in ("train.log", ".gitignore", ".lock"):
        (tmp_path / name).touch()
    (tmp_path / "runs").mkdir()
    assert stopped("finetune", pictures, tmp_path, model=MODEL)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(plm_core.InputError, match=r"it holds notes\.txt; choose another"):
        train("finetune", pictures, tmp_path, model=MODEL)


def test_the_recipe_in_the_card_is_a_command_that_gives_the_same_weights(finetune, plm, pictures, tmp_path):
    start = finetune()
    words = ["--set", "scale=(0.5, 1.0)", "--model-kwargs", "img_size=48", "--seed", 3, "--weights", start]
    card = (finetune(*words, out="first") / "README.md").read_text()
    command = next(line for line in card.splitlines() if line.startswith("- **Recipe**")).split("`")[1]
    again = shlex.split(command.replace("DATA", str(pictures)).replace("FOLDER", str(tmp_path / "again")))
    again[again.index("--weights") + 1] = str(start)  # a card gives only the last part of a path
    assert plm(*again[1:]).code == 0
    a, b = (load_file(tmp_path / out / "model.safetensors") for out in ("first", "again"))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert "0x" not in (start / "training.json").read_text()


def test_unreadable_images_stop_a_training_before_it_starts_or_are_left_out(plm, pictures, tmp_path, caplog):
    shutil.copytree(pictures, tmp_path / "data")
    bad = min((tmp_path / "data" / "train").rglob("*.png"))
    bad.write_bytes(bad.read_bytes()[:-40])
    count = len([*(tmp_path / "data" / "train").rglob("*.png")])
    words = ["train", "finetune", tmp_path / "data", "--out", tmp_path / "run", *ONE_STEP]
    result = plm(*words)
    assert (result.code, (tmp_path / "run").exists()) == (2, False)
    assert f"1 of {count} images of" in result.err.splitlines()[-1]
    assert f"{bad.name} (" in result.err.splitlines()[-1]
    result = plm(*words, "--skip-unreadable")
    assert result.code == 0, result.err
    assert f"are left out: {bad.parent.name}/{bad.name} (" in caplog.text
    record = json.loads((tmp_path / "run" / "training.json").read_text())
    assert record["data_digest"][:12] in record["found"]
    assert record["found"].startswith(f"{count - 1} images of 3 classes, 1 unreadable ones left out (digest ")
    assert record["left_out"] == [f"{bad.parent.name}/{bad.name}"]
    assert "--skip-unreadable" in (tmp_path / "run" / "README.md").read_text()


@pytest.fixture
def untrained(monkeypatch):
    """Leave the training out, and everything before and after it in."""

    def skip(model, *args, **options):
        history = [{"step": 1, "epoch": 1.0, "loss": 1.0, "learning_rate": 0.1}]
        return TrainResult({name: value.clone() for name, value in model.state_dict().items()}, history)

    monkeypatch.setattr("plm_core.runs.classification.finetune", skip)


def test_license(finetune, untrained):
    assert 'license: "apache-2.0"' in (finetune() / "README.md").read_text()  # that of the shipped weights
    assert 'license: "other"' in (finetune("--random", out="random") / "README.md").read_text()
    assert 'license: "mit"' in (finetune("--license", "MIT", out="mit") / "README.md").read_text()


def test_the_score_is_that_of_the_loaded_model(finetune, untrained, pictures):
    from plm_core.datasets import Pictures, load_dataset
    from plm_core.training.finetuning import accuracy

    folder = finetune()
    model = plm_core.create_model(str(folder), pretrained=True)
    val = Pictures(load_dataset(pictures / "val"), plm_core.transform_for(model))
    record = json.loads((folder / "training.json").read_text())
    assert record["scores"] == {"val top-1 %": pytest.approx(accuracy(model, val))}
    assert model.pretrained_cfg["label_names"] == ["circle", "cross", "star"]


# --- errors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "RECIPE and DATA and --out must be given; plm train --list shows the recipes"),
        (["finetun", "DATA", "--out", "OUT"], "no recipe 'finetun'; did you mean 'finetune'"),
        (["finetune", "DATA", "--out", "OUT"], "recipe 'finetune' needs a model: name one, such as 'test_vit'"),
        ([*ONE_STEP, "--set", "epoch=3"], "no setting 'epoch'; did you mean 'epochs'"),
        ([*ONE_STEP, "--set", "lr"], "--set 'lr' is not of the form name=value"),
        ([*ONE_STEP, "--set", "lr=1", "--set", "lr=2"], "--set 'lr' is given twice"),
        (["--model", MODEL, "--set", "batch_size=1.5"], "batch_size '1.5' is not allowed: int is expected, such as 64"),
        ([*ONE_STEP, "--set", "epochs=0"], "epochs 0 is not allowed: more than 0 is"),
        ([*ONE_STEP, "--precision", "fp64"], "precision 'fp64' is not allowed: 'fp32', 'bf16' or 'fp16' is"),
        ([*ONE_STEP, "--device", "toaster"], "device 'toaster' cannot be used"),
        ([*ONE_STEP, "--preset", "deiT"], "preset 'deiT' is not allowed for recipe 'finetune': default, micro, deit,"),
        ([*ONE_STEP, "--model", "resnet81"], "no model 'resnet81'"),
        ([*ONE_STEP, "--model", "test_vit", "--random", "--model-kwargs", "depht=2"], "cannot create test_vit with"),
        (["--model", MODEL, "--set", "batch_size=64"], "batch_size 64 is larger than the data, 48 samples"),
        ([*ONE_STEP, "--set", "drop_path=2"], "drop_path 2 is not allowed: a number from 0 to less than 1 is"),
        ([*ONE_STEP, "--set", "scale=(2,1)"], "scale (2, 1) is not allowed: a smaller and a larger number"),
        ([*ONE_STEP, "--set", "betas=(0.9,2)"], "betas (0.9, 2) is not allowed: numbers from 0 to less than 1 is"),
        ([*ONE_STEP, "--set", "layer_decay=0"], "layer_decay 0 is not allowed: None or more than 0 and up to 1 is"),
        ([*ONE_STEP, "--set", "auto_augment=foo"], "auto_augment 'foo' is not allowed: None or a policy of timm"),
        (
            ["--model", MODEL, "--set", "epochs=1", "--model-kwargs", "drop_path_rate=2"],
            "drop_path_rate 2 is not allowed",
        ),
        (
            [*ONE_STEP, "--set", "optimizer=SGD"],
            "optimizer 'SGD' is not allowed: 'adamw', 'lamb' or 'sgd' is expected, such as",
        ),
        ([*ONE_STEP, "--fsdp"], "fsdp shards over several processes, and this is the only one"),
        ([*ONE_STEP, "--model-kwargs", "num_classes=7"], "model_kwargs has num_classes, which follows from the data"),
        ([*ONE_STEP, "--model-kwargs", "img_size=-32"], "img_size -32 is not allowed: a whole number"),
        ([*ONE_STEP, "--model", "test_vit", "--random", "--model-kwargs", "img_size=70"], "should be divisible by"),
        (
            [*ONE_STEP, "--model", "hiera_micro_detector", "--random"],
            "returns a list; recipe 'finetune' trains classifiers",
        ),
        ([*ONE_STEP, "--model", "nowhere/run"], "(and there is no folder 'nowhere/run')"),
        ([*ONE_STEP, "--transform", "tome:r=8"], "attends inside"),
        ([*ONE_STEP, "--model", "torchvision:resnet18"], "is of torchvision; recipe 'finetune' trains models of timm"),
        ([*ONE_STEP, "--model", "hiera_micro_motions"], "takes clips; recipe 'finetune' trains on images"),
    ],
)
def test_bad_arguments_are_one_line_and_write_nothing(words, said, plm, pictures, tmp_path, caplog):
    if words[:1] != ["finetun"] and words[:1] != ["finetune"] and words:
        words = ["finetune", "DATA", "--out", "OUT", *words]
    names = {"DATA": pictures, "OUT": tmp_path / "out"}
    result = plm("train", *(names.get(word, word) for word in words))
    assert result.code == 2
    assert result.out == ""
    assert result.err.count("\n") == 1
    assert said in result.err
    assert not caplog.records  # a note on the warm-up belongs to a training that begins
    assert not list((tmp_path / "out").glob("*.*"))


def test_labels_that_differ_between_the_splits_are_named(plm, pictures, tmp_path):
    data = tmp_path / "data"
    (data / "val").mkdir(parents=True)
    (data / "train").symlink_to(pictures / "train")
    for name in ("circle", "star"):
        (data / "val" / name).symlink_to(pictures / "val" / name)
    result = plm("train", "finetune", data, "--out", tmp_path / "out", *ONE_STEP)
    assert "the same classes in both splits" in result.err
    assert "cross" in result.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_picture_is_named(workers, plm, pictures, tmp_path):
    data = tmp_path / "data"
    for name in ("star", "cross"):
        (data / name).mkdir(parents=True)
        whole = next((pictures / "train" / name).iterdir()).read_bytes()
        (data / name / "a.png").write_bytes(whole)
        (data / name / "b.png").write_bytes(whole[:100])
    words = [*ONE_STEP, "--set", "batch_size=2", "--num-workers", workers]
    result = plm("train", "finetune", data, "--out", tmp_path / "out", *words[:2], *words[4:])
    assert result.code == 2
    assert result.err.splitlines()[-1].startswith("plm: error: ")
    assert "b.png" in result.err.splitlines()[-1]
    assert not (tmp_path / "out").exists()
