"""The trainings of both towers: their losses, masks and stages."""

import math
import os
import socket
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from torch.nn.functional import normalize

import pe_encoder
from pe_encoder.configs import CORE
from pe_encoder.recipes import losses, masking, resolution, tables
from pe_encoder.recipes.contrastive import check_whole_batch, train_contrastive
from pe_encoder.recipes.distillation import train_distilled
from pe_encoder.recipes.pairs import collate
from pe_encoder.recipes.towers import Towers
from pe_encoder.recipes.video import AugmentedFrames
from plm_core import InputError, weights
from plm_core.training import Recipe

TOWER = {
    "patch_size": 8, "width": 24, "layers": 2, "heads": 2, "output_dim": 16, "image_size": 32, "attn_pooler_heads": 2
}  # fmt: skip
TEXT = {"context_length": 6, "width": 16, "heads": 2, "layers": 1, "output_dim": 16, "vocab_size": 16}
WORDS = tuple("abcdefghijkl")
# Not AdamW: the gradients of the keys' biases should be zero but are only nearly so, and AdamW steps by their sign.
RECIPE = Recipe(epochs=2, batch_size=8, lr=0.05, optimizer="sgd", clip_grad=1.0)
CONFIG = tables.ContrastiveConfig(recipe=RECIPE, mask_share=0.0)


class Pairs(torch.utils.data.Dataset):
    """Random images, each with a caption of three letters."""

    def __init__(self, count=16, frames=()):
        generator = torch.Generator().manual_seed(0)
        self.media = torch.randn(count, *frames, 3, 32, 32, generator=generator)

    def __len__(self):
        return len(self.media)

    def __getitem__(self, index):
        return self.media[index], " ".join(WORDS[(index * k) % 12] for k in (1, 2, 5))


def untrained():
    torch.manual_seed(0)
    return pe_encoder.CLIP(vision=TOWER, text=TEXT, vocabulary=WORDS)


# As in the paper's pretraining.
WHOLE = {"recipe": replace(RECIPE, optimizer="lamb", lr=0.01), "mask_share": 0.25, "stages": ((0.5, 16), (0.5, 32))}


def small_training(settings=None, **options):
    config = replace(CONFIG, **(settings or {}))
    return train_contrastive(untrained(), Pairs(), config, log_steps=1, **options)


def unit(*shape, seed=0):
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


# --- losses --------------------------------------------------------------------------------------------------


def test_the_contrastive_loss_is_the_mean_of_both_directions():
    media, texts, scale = unit(5, 4), unit(5, 4, seed=1), torch.tensor(7.0)
    logits = scale * media @ texts.T
    expected = -(logits.softmax(1).diagonal().log().mean() + logits.softmax(0).diagonal().log().mean()) / 2
    torch.testing.assert_close(losses.contrastive(media, texts, scale), expected)
    assert losses.contrastive(media, media, torch.tensor(1000.0)) < 1e-3


def test_a_student_with_the_matches_of_its_teacher_has_no_loss():
    teacher = unit(5, 4), unit(5, 4, seed=1)
    wider = tuple(F.pad(x, (0, 3)) for x in teacher)
    assert losses.divergence(wider, torch.tensor(200.0), teacher, 200.0).abs() < 1e-5
    student = unit(5, 6, seed=2), unit(5, 6, seed=3)
    cosines, theirs = student[0] @ student[1].T, teacher[0] @ teacher[1].T
    p, q = (200 * theirs).double(), (50 * cosines).double()
    expected = [(a.softmax(1) * (a.log_softmax(1) - b.log_softmax(1))).sum(1).mean() for a, b in ((p, q), (p.T, q.T))]
    loss = losses.divergence(student, torch.tensor(50.0), teacher, 200.0)
    torch.testing.assert_close(loss.double(), (expected[0] + expected[1]) / 2, rtol=1e-5, atol=1e-5)


def test_the_factor_of_the_logits_is_limited_and_can_come_down():
    clip = untrained()
    with torch.no_grad():
        clip.logit_scale.fill_(math.log(500))
    towers = Towers(clip, max_scale=100.0)
    assert towers(torch.randn(2, 3, 32, 32), torch.tensor([[1, 3, 15], [1, 4, 15]])).scale.item() == pytest.approx(100)
    result = train_contrastive(clip, Pairs(), CONFIG)
    assert clip.logit_scale.item() == result.state["logit_scale"].item() < math.log(100) - 1e-3
    limited = train_contrastive(clip, Pairs(), replace(CONFIG, max_scale=5.0))
    assert limited.state["logit_scale"].item() <= math.log(5.0) + 1e-6


# --- masks ---------------------------------------------------------------------------------------------------


def test_as_many_patches_are_masked_in_each_copy():
    mask = masking.draw_mask(6, 50, 0.4, torch.device("cpu"))
    assert mask.sum(1).tolist() == [20] * 6
    assert len(mask.unique(dim=0)) == 6
    assert [masking.count_copies(n, 1 / 16) for n in (4, 32, 8192)] == [1, 2, 512]
    assert masking.count_copies(4, 0.0) == 0


def test_masked_copies_pull_on_the_masked_places_and_not_on_their_targets():
    tokens, target = torch.randn(2, 5, 4, requires_grad=True), torch.randn(2, 5, 4, requires_grad=True)
    mask = torch.tensor([[True, False, True, False, False]] * 2)
    masking.distance(tokens, target, mask).backward()
    assert target.grad is None
    assert (tokens.grad.abs().sum(-1) > 0).equal(mask)
    assert masking.distance(target, target, mask).item() == pytest.approx(0, abs=1e-6)


def test_the_contrastive_loss_never_sees_a_masked_copy():
    """The embeddings are those without masks, and the mask token has a gradient from the regularisation only."""
    clip, images, ids = untrained(), torch.randn(4, 3, 32, 32), torch.tensor([[1, k, 15] for k in range(3, 7)])
    plain, masked = Towers(clip), Towers(clip, mask_share=0.5)
    outputs = masked.train()(images, ids)
    torch.testing.assert_close(outputs.media, plain(images, ids).media)
    losses.contrastive(outputs.media, outputs.texts, outputs.scale).backward(retain_graph=True)
    assert masked.mask_token.grad is None
    outputs.distance.backward()
    assert masked.mask_token.grad.abs().max() > 0
    assert masked.eval()(images, ids).distance == 0


# --- resolution ----------------------------------------------------------------------------------------------


def test_the_stages_follow_one_another():
    stages = ((0.5, 16), (0.25, 24), (0.25, 32))
    assert [resolution.size_at(stages, done / 8) for done in range(9)] == [16] * 4 + [24] * 2 + [32] * 3


def test_positions_of_a_small_image_are_averages_that_reach_all_positions():
    tower = untrained().visual
    assert resolution.positions(tower, (4, 4)) is tower.pos_embed
    small = resolution.positions(tower, (2, 2))
    assert small.shape == (1, 5, 24)
    small[:, 1:].sum().backward()
    assert (tower.pos_embed.grad[:, 1:] > 0).all()
    with torch.no_grad():
        tower.pos_embed[:, 1:] = 2.0
    torch.testing.assert_close(resolution.positions(tower, (2, 2))[:, 1:], torch.full((1, 4, 24), 2.0))


def test_a_tower_from_scratch_begins_with_smooth_positions():
    tower = untrained().visual
    rough = tower.pos_embed[0, 1:].std().item()
    resolution.smooth(tower, 16)
    assert tower.pos_embed[0, 1:].std().item() < 0.7 * rough


@pytest.mark.parametrize(
    ("stages", "words"),
    [(((1.0, 24),), "the model's own size, 32 x 32"), (((0.5, 20), (0.5, 32)), "multiples of the patch, 8")],
)
def test_stages_that_do_not_fit_the_model_are_refused(stages, words):
    with pytest.raises(InputError, match=words):
        train_contrastive(untrained(), Pairs(), replace(CONFIG, stages=stages))


def test_the_shares_of_the_stages_add_up():
    with pytest.raises(InputError, match=r"the shares add up to 0.75, and 1 is"):
        replace(CONFIG, stages=((0.5, 16), (0.25, 32)))


def test_a_training_grows_through_its_stages(monkeypatch):
    sizes, resize = [], resolution.resize
    monkeypatch.setattr(resolution, "resize", lambda x, size: sizes.append(size) or resize(x, size))
    clip = untrained()
    config = replace(CONFIG, stages=((0.5, 16), (0.5, 32)), mask_share=0.25)
    result = train_contrastive(clip, Pairs(), config, log_steps=1)
    assert sizes == [16, 16, 32, 32]
    assert clip.visual.image_size == (32, 32)
    assert {"contrastive", "masked"} <= result.history[0].keys()
    fresh = pe_encoder.CLIP(vision=TOWER, text=TEXT, vocabulary=WORDS)
    fresh.load_state_dict(result.state)


# --- batches -------------------------------------------------------------------------------------------------


def test_chunks_change_nothing():
    one, two = (small_training({"chunk_size": n}).state for n in (None, 3))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-6, rtol=1e-4)


def test_captions_that_are_cut_are_logged_once(caplog):
    batch = collate(untrained())
    media, ids = batch([(torch.zeros(1), "a b c d e f g h"), (torch.zeros(1), "a")])
    batch([(torch.zeros(1), "a b c d e f g h")])
    assert media.shape == (2, 1)
    assert ids.tolist() == [[1, 3, 4, 5, 6, 15], [1, 3, 15, 0, 0, 0]]
    assert [record.getMessage() for record in caplog.records] == ["1 of 2 texts have more than 6 tokens and were cut"]


def test_accumulated_gradients_are_refused():
    with pytest.raises(InputError, match=r"^per_device_batch_size 4 is less than .* chunk_size limits") as error:
        train_contrastive(untrained(), Pairs(), CONFIG, per_device_batch_size=4)
    assert "\n" not in str(error.value)
    check_whole_batch(RECIPE, 8)


@pytest.mark.parametrize("training", [train_contrastive, partial(train_distilled, teacher=untrained())])
def test_a_batch_of_one_pair_is_refused(training):
    config = tables.ContrastiveConfig if training is train_contrastive else tables.DistillConfig
    with pytest.raises(InputError, match="batch_size is 1; a contrastive loss needs at least 2 pairs"):
        training(untrained(), Pairs(), config(recipe=replace(RECIPE, batch_size=1)))


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
@pytest.mark.skipif(torch.accelerator.is_available(), reason="two processes would need two devices")
def test_two_processes_equal_one_with_the_joined_batch(forked, tmp_path):
    """By DDP, by FSDP, and in chunks. The last run only ends: its masks are other ones in each process."""
    runs = {"copied": ({}, False), "sharded": ({}, True), "chunks": ({"chunk_size": 3}, False), "whole": (WHOLE, True)}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("ACCELERATE_", "FSDP_"))}
    store = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    alone = small_training()
    log = tmp_path / "stderr.txt"

    def work(rank):
        os.environ.clear()
        os.environ.update(kept | store | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        AcceleratorState._reset_state(reset_partial_state=True)
        for name, (settings, fsdp) in runs.items():
            result = small_training(settings, fsdp=fsdp)
            losses = torch.tensor([entry["loss"] for entry in result.history])
            weights.write({**result.state, "losses": losses}, tmp_path / f"{name}{rank}.safetensors")

    processes = [forked(work, rank) for rank in range(2)]
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0], log.read_text()[-4000:]
    for name in runs:
        state = load_file(tmp_path / f"{name}0.safetensors")
        losses = state.pop("losses")
        assert state.keys() == alone.state.keys()
        if name != "whole":
            expected = torch.tensor([entry["loss"] for entry in alone.history])
            torch.testing.assert_close(losses, expected, atol=1e-5, rtol=0)
            for key, value in alone.state.items():
                torch.testing.assert_close(state[key], value, atol=1e-5, rtol=0)


# --- videos and distillation ---------------------------------------------------------------------------------


def test_a_video_is_the_mean_of_the_embeddings_of_its_frames():
    clip, video, ids = untrained().eval(), torch.randn(2, 3, 3, 32, 32), torch.tensor([[1, 3, 15], [1, 4, 15]])
    outputs = Towers(clip, chunk_size=2)(video, ids)
    torch.testing.assert_close(outputs.media, normalize(clip.encode_video(video, normalize=True), dim=-1))
    result = train_contrastive(clip, Pairs(frames=(2,)), CONFIG)
    assert result.history[-1]["loss"] < 10


def test_one_draw_of_an_augmentation_is_for_all_frames():
    frames = AugmentedFrames(
        4, lambda picture: torch.full((3, 1, 1), float(picture.getpixel((0, 0))[0])) + torch.rand(())
    )
    augmented = frames(Stills(9))
    assert augmented.shape == (4, 3, 1, 1)
    assert (augmented[:, 0, 0, 0] - augmented[0, 0, 0, 0]).round(decimals=4).tolist() == [0, 2, 5, 8]
    assert frames(Stills(1)).shape == (4, 3, 1, 1)  # a short video gives its frames several times


class Stills:
    """A video whose frames have the level of their number."""

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def read(self, indices):
        return torch.stack([torch.full((2, 2, 3), i, dtype=torch.uint8) for i in indices])


def test_a_student_learns_the_matches_of_its_teacher():
    class Twice(Pairs):
        def __getitem__(self, index):
            media, text = super().__getitem__(index)
            return (media, media), text

    teacher = untrained()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    torch.manual_seed(1)
    student = pe_encoder.CLIP(vision=TOWER, text=TEXT, vocabulary=WORDS)
    config = tables.DistillConfig(recipe=replace(RECIPE, epochs=20, optimizer="lamb", lr=0.02), teacher_scale=20.0)
    history = train_distilled(student, Twice(), config, teacher, log_steps=4).history
    assert history[-1]["loss"] < 0.7 * history[0]["loss"]
    assert all(torch.equal(teacher.state_dict()[name], value) for name, value in before.items())


def test_videos_have_no_masked_copies_and_no_stages():
    with pytest.raises(InputError, match=r"^mask_share 0.5 is not allowed: videos have no masked copies"):
        tables.VideoConfig(recipe=RECIPE, mask_share=0.5)


# --- tables --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("preset", "size"), [("base", "b16_224"), ("large", "l14_336"), ("giant", "g14_448")])
def test_the_tables_fit_the_models_of_the_paper(preset, size):
    config, core = tables.CONTRASTIVE[preset], CORE[size]
    steps = config.recipe.epochs * tables.PAIRS / config.recipe.batch_size
    assert steps == pytest.approx({"base": 443_000, "large": 443_000, "giant": 656_000}[preset])
    assert config.stages[-1][1] == core.image_size
    assert all(size % core.vision["patch_size"] == 0 for _, size in config.stages)
    assert config.recipe.warmup_epochs * steps / config.recipe.epochs == pytest.approx(2000)
    assert (config.recipe.optimizer, config.recipe.lr, config.recipe.betas) == ("lamb", 2e-3, (0.9, 0.95))


def test_the_tables_of_videos_and_of_distillation():
    video, distill = tables.VIDEO["paper"], tables.DISTILL["paper"]
    assert video.recipe.epochs * tables.VIDEOS / 4096 == pytest.approx(5_400)
    assert (video.frames, video.hflip, video.scale, video.recipe.lr) == (8, 0.5, (0.08, 1.0), 1e-6)
    assert distill.recipe.epochs * tables.PAIRS == pytest.approx(4.4e9, rel=0.01)
    assert (distill.teacher_scale, distill.max_scale, distill.teacher) == (200, 100, "pe_clip_g14_448")
