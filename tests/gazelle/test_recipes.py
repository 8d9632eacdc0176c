"""The trainings: the paper's settings to the number, losses by hand, and where a training begins."""

import math
import os
import socket
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

import gazelle
import plm_core
from gazelle.data import PersonSamples, collate_people, read_gazefollow, read_vat
from gazelle.estimation import preprocess_of
from gazelle.recipes import FOLLOW, VIDEO, EpochRecipe, GazeConfig, Looker, gaze_loss, train_gaze
from gazelle.recipes.training import recipe_of
from plm_core import InputError, weights
from plm_core.errors import WeightsError
from plm_core.runs import train
from plm_core.testing import check_run_folder
from plm_core.training import parameter_groups

MICRO = "gazelle_micro_shapes"
SHORT = {"epochs": 1, "batch_size": 8, "warmup_epochs": 0}


def start():
    torch.manual_seed(0)
    return plm_core.create_model(MICRO)


@pytest.fixture(scope="module")
def samples(gaze_videos):
    """People of whom some look outside."""
    return PersonSamples(read_vat(gaze_videos), preprocess_of(start()))


def batch_of(samples, inout):
    return collate_people([sample for sample in samples if sample["inout"].item() in inout][:4])


# --- the settings of the paper --------------------------------------------------------------------------------


def test_the_learning_rate_on_gazefollow_is_that_of_a_cosine_by_epochs():
    recipe, steps = FOLLOW["paper"].recipe, 15 * 7
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=15, eta_min=1e-7)
    for epoch in range(15):
        expected = optimizer.param_groups[0]["lr"]
        rates = [recipe.lr * recipe.lr_factor(step, steps) for step in range(7 * epoch, 7 * epoch + 7)]
        assert rates == pytest.approx([expected] * 7)
        optimizer.step()
        schedule.step()
    assert recipe.lr * recipe.lr_factor(steps, steps) == pytest.approx(1e-7)


@pytest.mark.parametrize("steps", range(15, 4000, 129))
def test_an_epoch_begins_at_its_first_step(steps):
    recipe = FOLLOW["paper"].recipe
    per_epoch = steps // 15
    factors = [recipe.lr_factor(epoch * per_epoch, 15 * per_epoch) for epoch in range(15)]
    assert factors == pytest.approx([recipe.lr_factor(epoch, 15) for epoch in range(15)])


def test_the_settings_of_the_paper():
    follow, video = FOLLOW["paper"], VIDEO["paper"]
    assert (follow.recipe.epochs, follow.recipe.batch_size, follow.recipe.weight_decay) == (15, 60, 0)
    assert (follow.inout_lr, follow.step, follow.frozen, follow.augmented) == (None, 1, True, True)
    assert (video.recipe.epochs, video.recipe.batch_size, video.recipe.weight_decay) == (8, 60, 0)
    assert (video.step, video.frozen, video.augmented) == (6, True, True)
    assert {video.recipe.lr_factor(step, 80) for step in range(80)} == {1.0}


def test_the_in_out_parts_have_a_learning_rate_of_their_own():
    model = start()
    groups = parameter_groups(Looker(model), recipe_of(VIDEO["paper"]))
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    named = {name: rates[id(p)] for name, p in model.named_parameters() if p.requires_grad}
    assert {name for name in named if "inout" in name} >= {"inout_token.weight", "inout_head.0.weight"}
    for name, rate in named.items():
        assert rate == pytest.approx(1e-2 if "inout" in name else 1e-5), name
    assert {group["weight_decay"] for group in groups} == {0}


def test_settings_that_contradict_one_another_are_refused():
    with pytest.raises(InputError, match=r"final_lr 0.1 is more than lr 0.01"):
        EpochRecipe(epochs=1, batch_size=1, lr=0.01, final_lr=0.1)
    with pytest.raises(InputError, match=r"inout_lr is 1e-05; at least lr, 0.001, is expected"):
        replace(VIDEO["micro"], inout_lr=1e-5)
    with pytest.raises(InputError, match="step 0 is not allowed: 1 or more is"):
        replace(VIDEO["micro"], step=0)


# --- losses ---------------------------------------------------------------------------------------------------


def test_the_loss_is_that_of_the_cells_of_people_who_look_inside(samples):
    inner, outer = batch_of(samples, (1,)), batch_of(samples, (0,))
    batch = {name: [*inner[name], *outer[name]] if name == "boxes" else torch.cat([inner[name], outer[name]])
             for name in inner}  # fmt: skip
    model = Looker(start()).eval()
    inside = [number for number, label in enumerate(batch["inout"]) if label == 1]
    assert inside == [0, 1, 2, 3]
    heatmaps, scores = model(batch["images"], batch["boxes"])
    cells = torch.stack([F.binary_cross_entropy(heatmaps[i], batch["heatmaps"][i]) for i in inside]).mean()
    labels = torch.stack([F.binary_cross_entropy(s, y) for s, y in zip(scores, batch["inout"], strict=True)]).mean()
    loss, parts = gaze_loss(model, batch, inout=True)
    torch.testing.assert_close(loss, cells + labels)
    torch.testing.assert_close(parts["heatmap"], cells)
    alone, parts = gaze_loss(model, batch, inout=False)
    torch.testing.assert_close(alone, cells)
    assert set(parts) == {"heatmap"}


def test_a_batch_in_which_nobody_looks_inside_has_a_loss(samples):
    model, batch = Looker(start()), batch_of(samples, (0,))
    loss, parts = gaze_loss(model, batch, inout=True)
    assert parts["heatmap"] == 0
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert model.model.inout_head[0].weight.grad.abs().sum() > 0


def test_the_loss_is_computed_in_full_precision(samples):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = gaze_loss(Looker(start()), batch_of(samples, (0, 1)), inout=True)
    assert loss.dtype == torch.float32


def test_a_looker_returns_what_the_model_does(samples):
    model, batch = start().eval(), batch_of(samples, (0, 1))
    boxes = [[*some, (0.5, 0.5, 0.75, 0.75)] for some in batch["boxes"]]
    heatmaps, scores = Looker(model)(batch["images"], boxes)
    gaze = model({"images": batch["images"], "bboxes": boxes})
    torch.testing.assert_close(heatmaps, torch.cat(gaze["heatmap"]))
    torch.testing.assert_close(scores, torch.cat(gaze["inout"]))
    empty, _ = Looker(model)(batch["images"][:1], [[(0.5, 0.5, 0.5, 0.5)]])
    torch.testing.assert_close(empty, model({"images": batch["images"][:1], "bboxes": [[None]]})["heatmap"][0])


def test_a_model_without_the_head_is_not_trained_on_it(samples):
    model = plm_core.create_model(MICRO, inout=False)
    with pytest.raises(InputError, match=r"no in/out head to train: create one with inout=True.*--weights with its"):
        train_gaze(model, samples, VIDEO["micro"])


# --- what is trained, and from where --------------------------------------------------------------------------


def changed(before, after):
    """Return the parts of a model whose tensors differ."""
    return {
        "inout" if "inout" in name else name.partition(".")[0]
        for name, value in after.items()
        if not torch.equal(value, before[name])
    }


def test_gazefollow_trains_all_but_backbone_and_in_out_parts(gaze_photos, tmp_path):
    trained = train("gaze-follow", gaze_photos, tmp_path, model=MICRO, settings={**SHORT, "frozen": False})
    before = plm_core.create_model(MICRO, pretrained=True).state_dict()
    decoder = {"linear", "head_token", "transformer", "heatmap_head"}
    assert changed(before, trained.model.state_dict()) == {*decoder, "backbone"}
    frozen = train("gaze-follow", gaze_photos, tmp_path / "2", model=MICRO, settings={**SHORT, "frozen": True})
    assert changed(before, frozen.model.state_dict()) == decoder
    assert set(frozen.scores) == {"test AUC", "test avg L2", "test min L2"}
    people = sum(p.inout == 1 for scene in read_gazefollow(gaze_photos).scenes for p in scene.people)
    assert frozen.data.startswith(f"{people} people in 12 pictures, ")
    assert [entry["epoch"] for entry in frozen.history if "test AUC" in entry] == [1.0]


def test_videos_go_on_from_a_decoder_without_in_out_parts(gaze_photos, gaze_videos, tmp_path):
    follow = plm_core.create_model(MICRO, inout=False).state_dict()
    weights.write(follow, tmp_path / "follow.safetensors")
    settings = {**SHORT, "lr": 1e-12, "inout_lr": 1e-12, "frozen": True}
    trained = train("gaze-vat", gaze_videos, tmp_path / "run", model=MICRO, weights=tmp_path / "follow.safetensors",
                    settings=settings, max_steps=1)  # fmt: skip
    state = trained.model.state_dict()
    for name, value in follow.items():
        torch.testing.assert_close(state[name], value, atol=1e-6, rtol=0)
    assert set(trained.scores) == {"test AUC", "test L2", "test in/out AP"}
    assert trained.data.startswith(f"{read_vat(gaze_videos).every(1).people} people in 56 pictures, ")
    check_run_folder(tmp_path / "run", trained.model)


def test_a_released_decoder_comes_without_a_backbone(gaze_videos, tmp_path):
    """The backbone then has its own pretrained weights. An in/out head of the file is loaded, too."""
    decoder = {k: v for k, v in plm_core.create_model(MICRO).state_dict().items() if not k.startswith("backbone.")}
    torch.save(decoder, tmp_path / "decoder.pt")
    settings = {**SHORT, "lr": 1e-12, "inout_lr": 1e-12, "frozen": True}
    trained = train("gaze-vat", gaze_videos, tmp_path / "run", model=MICRO, weights=tmp_path / "decoder.pt",
                    settings=settings, max_steps=1)  # fmt: skip
    eyes = plm_core.create_model("hiera_micro_shapes", pretrained=True).state_dict()
    for name, value in trained.model.state_dict().items():
        expected = decoder.get(name, eyes.get(name.removeprefix("backbone.model.")))
        assert expected is not None or name.startswith("backbone.model.pos_embed"), name
        if expected is not None and expected.shape == value.shape:  # positions follow the size of the image
            torch.testing.assert_close(value, expected, atol=1e-6, rtol=0)


def test_frames_are_taken_by_steps(gaze_videos, tmp_path):
    trained = train("gaze-vat", gaze_videos, tmp_path, model=MICRO, settings={**SHORT, "batch_size": 4, "step": 6},
                    max_steps=1)  # fmt: skip
    assert " people in 12 pictures, " in trained.data, "frames 0, 6 and 12 of 14 in 4 clips"


def test_weights_that_do_not_fit_are_named(gaze_videos, tmp_path):
    state = plm_core.create_model(MICRO).state_dict()
    del state["linear.weight"]
    weights.write({**state, "more.weight": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match=r"does not fit model .*: no linear.weight; no place for more.weight"):
        train("gaze-vat", gaze_videos, tmp_path / "run", model=MICRO, weights=tmp_path / "a.safetensors")


def test_videos_need_a_decoder_that_was_trained(gaze_videos, tmp_path):
    with pytest.raises(
        InputError, match=r"recipe 'gaze-vat' goes on from a model that was trained on GazeFollow: name"
    ):
        train("gaze-vat", gaze_videos, tmp_path / "run", model="gazelle_dinov2_vitb14_inout", settings={"epochs": 1})


def test_another_model_is_refused(gaze_photos, tmp_path):
    with pytest.raises(
        InputError, match=r"model 'hiera_micro_shapes' is a Hiera; recipe 'gaze-follow' trains a GazeLLE"
    ):
        train("gaze-follow", gaze_photos, tmp_path / "run", model="hiera_micro_shapes", preset="micro")


def test_another_backbone_is_trained_by_its_name(gaze_photos, tmp_path):
    kwargs = {"backbone": "pe_micro_spatial", "img_size": 48, "dim": 32, "num_layers": 1}
    trained = train("gaze-follow", gaze_photos, tmp_path / "run", model="gazelle_dinov2_vitb14", preset="micro",
                    model_kwargs=kwargs, settings={**SHORT, "frozen": True}, max_steps=1)  # fmt: skip
    assert isinstance(trained.model, gazelle.GazeLLE)
    eyes = plm_core.create_model("pe_micro_spatial", pretrained=True).state_dict()
    state = trained.model.backbone.model.state_dict()
    assert torch.equal(state["blocks.0.attn.qkv.weight"], eyes["blocks.0.attn.qkv.weight"])
    check_run_folder(tmp_path / "run", trained.model)


def test_a_training_learns(gaze_photos):
    model = start()
    data = PersonSamples(read_gazefollow(gaze_photos), preprocess_of(model), inside_only=True)
    recipe = replace(FOLLOW["micro"].recipe, epochs=8, batch_size=8, lr=2e-3)
    config = GazeConfig(recipe=recipe, augmented=False, frozen=True)
    history = train_gaze(model, data, config, log_steps=1).history
    losses = [entry["loss"] for entry in history if "loss" in entry]
    assert math.isfinite(losses[0])
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
@pytest.mark.skipif(torch.accelerator.is_available(), reason="two processes would need two devices")
def test_two_processes_train_one_model(forked, gaze_videos, tmp_path):
    """Frozen parts have no gradients to exchange, and a process may have nobody who looks inside."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("ACCELERATE_", "FSDP_"))}
    store = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    log = tmp_path / "stderr.txt"

    def work(rank):
        os.environ.clear()
        os.environ.update(kept | store | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        AcceleratorState._reset_state(reset_partial_state=True)
        model = start()
        data = PersonSamples(read_vat(gaze_videos), preprocess_of(model))
        recipe = replace(VIDEO["micro"].recipe, epochs=1, batch_size=2, warmup_epochs=0)
        config = replace(VIDEO["micro"], recipe=recipe, frozen=True)
        seen = []
        train_gaze(model, data, config, max_steps=4, evaluate=lambda looker: seen.append(looker) or {"one": 1.0})
        assert len(seen) == 1
        weights.write(model.state_dict(), tmp_path / f"{rank}.safetensors")

    processes = [forked(work, rank) for rank in range(2)]
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0], log.read_text()[-4000:]
    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in range(2))
    before = start().state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert changed(before, first) == {"linear", "head_token", "transformer", "heatmap_head", "inout"}
