"""The trainings of a language model: the tables of the paper, what learns, packed rows, and held-out rows."""

import json
import math
from dataclasses import replace

import pytest
import torch
from transformers import TrainerCallback

from plm_core.errors import FileError, InputError
from plm_core.lm.data import Mixture, pack, pad
from plm_core.lm.documents import Learner, packed_logits
from plm_core.lm.model import next_token_loss
from plm_core.lm.official import training_loss
from plm_core.lm.recipes import FINETUNE, STAGE1, STAGE2, STAGE3, StageConfig, StageRecipe, train_lm
from plm_core.lm.recipes.scoring import SHORT, answers, score
from plm_core.lm.recipes.splits import split_rows
from plm_core.lm.recipes.training import chunk_size

SIZES = ("1b", "3b", "8b")
STAGES = {
    # steps, warm-up, batch, samples of the mix, learning rate by size
    "stage 1": (STAGE1, 8_000, 20, 512, 1e6, (1e-4, 1e-4, 1e-4)),
    "stage 2": (STAGE2, 35_000, 120, 2_048, 72.5e6, (4e-5, 4e-5, 4e-5)),
    "stage 3": (STAGE3, 21_000, 120, 1_024, 19.1e6, (4e-5, 4e-5, 1e-5)),
}


# --- tables


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("size", SIZES)
def test_the_schedule_is_that_of_the_paper(stage, size):
    table, steps, warmup, batch, samples, rates = STAGES[stage]
    recipe = table[size].recipe
    assert (recipe.batch_size, recipe.lr) == (batch, rates[SIZES.index(size)])
    assert recipe.epochs * samples / batch == pytest.approx(steps)
    for step in (0, 1, warmup // 2, warmup, warmup + 1, steps // 3, steps - 1):
        expected = step / warmup
        if step >= warmup:
            angle = math.pi * (step - warmup) / (steps - warmup)
            expected = 0.01 + 0.5 * (1 - 0.01) * (1 + math.cos(angle))
        assert recipe.lr_factor(step, steps) == pytest.approx(expected, abs=1e-9), step
    assert recipe.lr_factor(steps, steps) == pytest.approx(0.01)


@pytest.mark.parametrize("size", SIZES)
def test_the_settings_of_the_stages(size):
    for table, *_ in STAGES.values():
        recipe = table[size].recipe
        assert (recipe.optimizer, recipe.betas, recipe.clip_grad, recipe.decay_all) == ("adamw", (0.9, 0.95), 1.0, True)
        assert recipe.weight_decay == (0.05 if size == "8b" else 0.01)
        assert table[size].recompute
    first, second, third = STAGE1[size], STAGE2[size], STAGE3[size]
    assert (first.trained, second.trained, third.trained) == ("projector", "all", "all")
    assert (first.mode, second.mode, third.mode) == ("warmup", "chat", "chat")
    assert (first.max_length, second.max_length, third.max_length) == (1280, 6144, 11520)
    assert (first.pooling_ratio, second.pooling_ratio, third.pooling_ratio) == (1, 2, 2)
    assert (first.tiling, second.tiling, third.tiling) == ("vanilla", "thumb+tile", "thumb+tile")
    assert (second.max_tiles, second.max_frames, third.max_tiles, third.max_frames) == (16, 16, 36, 32)
    assert (first.layer_scale, second.layer_scale, third.layer_scale) == (0, 0.1, 0.1)
    assert (first.drop_path, second.drop_path, third.drop_path) == (0, 0.1, 0.1)
    assert "Llama" in first.decoder
    assert first.tower.startswith("pe_core_g" if size == "8b" else "pe_core_l")


def test_a_trial_of_each_stage_starts_alike():
    for table in (STAGE1, STAGE2, STAGE3, FINETUNE):
        assert table["micro"].recipe == FINETUNE["micro"].recipe


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"max_length": 1}, "max_length 1 is not allowed: 2 or more is"),
        ({"drop_path": 1.0}, "drop_path 1.0 is not allowed"),
        ({"trained": "tower"}, "trained 'tower' is not allowed"),
        ({"trained": "projector", "lora_rank": 4}, "lora_rank 4 is not allowed with trained='projector'"),
        ({"held_out": 1.0}, "held_out 1.0 is not allowed"),
        ({"lora_rank": 0}, "lora_rank 0 is not allowed: 1 or more is"),
    ],
)
def test_impossible_settings_are_refused(bad, message):
    with pytest.raises(InputError, match=message):
        StageConfig(recipe=FINETUNE["micro"].recipe, **bad)
    with pytest.raises(InputError, match=r"final 2\.0 is not allowed"):
        StageRecipe(epochs=1, batch_size=1, lr=1.0, final=2.0)


# --- what learns


class Watch(TrainerCallback):
    """Note the parameters of the optimiser and for how many of them it keeps moments."""

    def on_step_end(self, args, state, control, optimizer, **_):
        inner = getattr(optimizer, "optimizer", optimizer)
        self.parameters = {id(p) for group in inner.param_groups for p in group["params"]}
        self.moments = len(inner.state)
        self.decays = {group["weight_decay"] for group in inner.param_groups}


@pytest.mark.parametrize("learns", ["projector", "all"])
def test_only_what_learns_changes_and_has_moments(tiny, conversations, learns):
    recipe = replace(tiny.RECIPE, optimizer="adamw", lr=1e-2, decay_all=True)
    config = replace(tiny.CONFIG, trained=learns, recipe=recipe)
    watch, before = Watch(), tiny.untrained().state_dict()
    model, result, _ = tiny.trained(conversations, config, callbacks=[watch], max_steps=2)
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    prefix = "vision.projector." if learns == "projector" else ""
    assert learning == {name for name in before if name.startswith(prefix)}
    assert {name for name, value in before.items() if not torch.equal(value, result.state[name])} == learning
    assert watch.parameters == {id(p) for p in model.parameters() if p.requires_grad}
    assert watch.moments == len(learning)
    assert watch.decays == {recipe.weight_decay}


def test_a_batch_of_texts_alone_does_not_stop_a_training_of_the_projector(tiny, conversations):
    data = tiny.samples(conversations)
    texts = [data[index] for index in range(len(data)) if data[index].chunks is None]
    config = replace(tiny.CONFIG, trained="projector", recipe=replace(tiny.RECIPE, batch_size=2))
    model = tiny.untrained()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = train_lm(model, texts, config, show=False)
    assert all(torch.allclose(result.state[name], value, atol=1e-3) for name, value in before.items())


@pytest.mark.parametrize("recompute", [True, False])
def test_activations_are_computed_again_if_asked_for(tiny, conversations, recompute):
    model = tiny.trained(conversations, replace(tiny.CONFIG, recompute=recompute), max_steps=1)[0]
    assert model.vision.tower.grad_checkpointing == model.decoder.model.gradient_checkpointing == recompute


# --- packed rows


def test_packed_samples_have_the_losses_of_padded_ones(tiny, conversations):
    """The original pads each sample to the greatest length. Here the loss of each and of the batch are compared."""
    model, data = tiny.untrained(), tiny.samples(conversations)
    some = [data[index] for index in (0, 1, 5, 2)]
    assert [sample.kind for sample in some] == ["text", "image", "multi_image", "image"]
    learner, whole = Learner(model), pad(some, 128, data.encoder.pad_id)
    assert learner(pack(some)).item() == pytest.approx(training_loss(model, **whole).item(), abs=1e-5)
    batch = pack(some)
    places = torch.nonzero(batch["labels"][0] != -100)[:, 0]
    logits = packed_logits(model, batch, places)
    document = torch.repeat_interleave(torch.arange(4), batch["lengths"])[places]
    for number, sample in enumerate(some):
        own = document == number
        packed = next_token_loss(logits[own], batch["labels"][0, places[own]])
        padded = training_loss(model, **pad([sample], 128, data.encoder.pad_id))
        assert packed.item() == pytest.approx(padded.item(), abs=1e-5)


# --- resumed, and without room on the disk


def test_a_resumed_training_equals_an_undisturbed_one(tiny, conversations, tmp_path):
    """With moments of AdamW and dropped paths, which the tiny model has none of otherwise."""
    recipe = replace(tiny.RECIPE, epochs=2, optimizer="adamw", lr=1e-2)
    config = replace(tiny.CONFIG, recipe=recipe)

    def train(**options):
        model = tiny.untrained(drop_path_rate=0.5)
        return train_lm(model, tiny.samples(conversations), config, log_steps=1, show=False, **options)

    whole = train()
    train(out=tmp_path, max_steps=4)
    resumed = train(out=tmp_path, resume=True)
    assert len(whole.history) == len(resumed.history) == 6
    assert [entry["loss"] for entry in resumed.history] == [entry["loss"] for entry in whole.history]
    for name, value in whole.state.items():
        torch.testing.assert_close(resumed.state[name], value, atol=1e-6, rtol=0)


def test_a_full_disk_is_one_line_and_leaves_the_checkpoint_before(tiny, conversations, tmp_path, full_disk_after):
    tiny.trained(conversations, out=tmp_path, max_steps=1)
    with full_disk_after(20_000), pytest.raises(FileError, match="cannot write a checkpoint to"):
        tiny.trained(conversations, out=tmp_path, resume=True)
    assert [path.name for path in tmp_path.glob("*checkpoint*")] == ["checkpoint-1"]


# --- scores


def test_short_answers_by_one_pass_are_those_of_greedy_decoding(tiny, conversations):
    """Train until some answers are right and others are not, and compare with what `generate` gives."""
    recipe = replace(tiny.RECIPE, epochs=12, batch_size=4, optimizer="adamw", lr=1e-2, weight_decay=0.0)
    model = tiny.trained(conversations, replace(tiny.CONFIG, recipe=recipe, recompute=False))[0].eval()
    data = tiny.samples(conversations, "validation.jsonl")
    hits, losses = [], []
    for index in range(len(data)):
        sample = data[index]
        ids, targets = sample.input_ids, sample.labels != -100
        header = data.encoder.tokenizer.encode(data.encoder.format.header_of("assistant"), add_special_tokens=False)
        first = int(targets.nonzero()[0]) + len(header)
        expected = ids[first:].tolist()
        options = {"max_new_tokens": len(expected), "do_sample": False, "eos_token_id": [*data.encoder.stop_ids]}
        output = model.generate(ids[None, :first], pixel_values=sample.chunks, **options)
        stop = expected.index(data.encoder.stop_ids[1]) + 1
        hits.append(output[0, first:].tolist()[:stop] == expected[:stop])
        logits = model(ids[None], pixel_values=sample.chunks).logits[0, :-1][targets[1:]]
        losses += torch.nn.functional.cross_entropy(logits, ids[targets], reduction="none").tolist()
    scores = score(Learner(model), data, data.encoder)
    assert 0 < sum(hits) < len(hits)
    assert scores["held-out short answers %"] == pytest.approx(100 * sum(hits) / len(hits))
    assert scores["held-out loss"] == pytest.approx(sum(losses) / len(losses), abs=1e-5)
    assert list(score(Learner(model), data, data.encoder, turns=False)) == ["held-out loss"]


def test_answers_of_a_row():
    none, header, stop = -100, (1, 2), 9
    long = [5] * (SHORT + 1)
    labels = [none, 1, 2, 7, stop, none, 1, 2, *long, stop, none, none, 1, 2, 8, 8, stop, 4, none, 6, 6]
    #         the second answer is too long, the third goes on after its end, the last has neither header nor end
    second = 4 + 2 + len(long) + 1
    third = range(second + 2, second + 5)
    assert list(answers(labels, header, (stop,))) == [range(2, 4), third, range(second + 6, second + 8)]


# --- rows


def rows_file(path, count):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps({"text": f"row {number}"}) + "\n" for number in range(count)))
    return path


def places(rows):
    return [rows.place(index) for index in range(len(rows))]


CONFIG = replace(FINETUNE["micro"], held_out=0.1)


def test_a_share_of_the_rows_is_held_out(tmp_path):
    file = rows_file(tmp_path / "rows.jsonl", 50)
    split = split_rows(str(file), CONFIG, seed=3)
    assert (len(split.train), len(split.held_out), split.epochs) == (45, 5, 1)
    assert sorted(places(split.train) + places(split.held_out)) == sorted(f"{file}, line {n}" for n in range(1, 51))
    assert split.train[7].conversations == split_rows(str(file), CONFIG, seed=3).train[7].conversations
    assert places(split.held_out) != places(split_rows(str(file), CONFIG, seed=4).held_out)
    assert split.found == "45 conversations, 5 held-out ones"
    assert len(split_rows(str(file), replace(CONFIG, held_out=0.001), 0).held_out) == 1
    assert split_rows(str(file), replace(CONFIG, held_out=0.0), 0).held_out is None
    with pytest.raises(InputError, match="1 rows, of which 1 would be held out: held_out=0 holds out none"):
        split_rows(str(rows_file(tmp_path / "b" / "rows.jsonl", 1)), CONFIG, 0)


def test_a_validation_file_holds_the_held_out_rows(tmp_path):
    rows_file(tmp_path / "validation.jsonl", 4)
    split = split_rows(str(rows_file(tmp_path / "rows.jsonl", 20)), CONFIG, 0)
    assert len(split.train) == 20
    assert places(split.held_out) == [f"{tmp_path / 'validation.jsonl'}, line {n}" for n in range(1, 5)]


def test_a_registry_is_one_pass_over_as_many_rows_as_the_training_needs(tmp_path):
    for name, count in (("a", 40), ("b", 10), ("c", 10)):
        rows_file(tmp_path / f"{name}.jsonl", count)
    registry = tmp_path / "sets.yaml"
    registry.write_text("".join(f"{name}: {{annotation: {name}.jsonl}}\n" for name in "abc"))
    config = replace(CONFIG, recipe=replace(CONFIG.recipe, epochs=4.0, warmup_epochs=1.0))
    split = split_rows(str(registry), config, 0)
    assert isinstance(split.train, Mixture)
    assert (len(split.train), len(split.held_out), split.epochs) == (4 * 54, 6, 4.0)
    assert (split.config.recipe.epochs, split.config.recipe.warmup_epochs) == (1.0, 0.25)
    assert split.found == "54 conversations of 3 sources, 6 held-out ones"
    assert not set(places(split.train)) & set(places(split.held_out))
    mixed = split_rows(str(registry), replace(config, mix="a:1,b:3"), 0)
    share = sum("b.jsonl" in place for place in places(mixed.train)) / len(mixed.train)
    assert share == pytest.approx(0.75, abs=0.1)
    assert not any("c.jsonl" in place for place in places(mixed.train))
    with pytest.raises(InputError, match="no dataset 'd'"):
        split_rows(str(registry), replace(config, mix="d:1"), 0)
    with pytest.raises(InputError, match="mix 'a:1' is for the sources of a registry"):
        split_rows(str(tmp_path / "a.jsonl"), replace(config, mix="a:1"), 0)


def test_the_size_of_a_chunk_and_its_tokens(tiny):
    model = tiny.untrained()
    assert (chunk_size(model), model.vision.tokens_of(32)) == (32, 4)
    vision = {
        "architecture": "vit_tiny_patch16_224",
        "model_args": {"embed_dim": 64, "num_heads": 4, "depth": 1, "img_size": 64},
    }
    model = tiny.untrained(vision_config=vision)
    assert (chunk_size(model), model.vision.tokens_of(64)) == (64, 4)
    assert model.image_features(torch.zeros(1, 3, 64, 64)).shape[1] == 4
