"""The recipes of a language model: from a decoder and a tower through the stages, and what they refuse."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForCausalLM

import plm_core
from plm_core import lm, weights
from plm_core.errors import InputError, WeightsError
from plm_core.lm.builders import create_tower
from plm_core.lm.processor import Processor
from plm_core.lm.recipes import stages
from plm_core.runs import train
from plm_core.testing import check_run_folder

SHORT = {"epochs": 2, "batch_size": 8, "max_length": 200}


@pytest.fixture(scope="module")
def shape(tiny):
    """Return the keywords that make 1B tiny."""
    return {"vision_config": tiny.VISION, "text_config": tiny.TEXT, "img_size": 32}


@pytest.fixture(scope="module")
def parts(tiny, tmp_path_factory):
    """Write a decoder with its tokenizer as transformers does, and a PE-Core of three blocks for smaller images."""
    folder = tmp_path_factory.mktemp("parts")
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(**tiny.TEXT)).save_pretrained(folder / "decoder")
    tiny.tokenizer().save_pretrained(folder / "decoder")
    size = {"patch_size": 8, "width": 16, "layers": 3, "heads": 2, "mlp_ratio": 2.0, "output_dim": 8}
    core = plm_core.create_model("pe_core_l14_336", img_size=24, attn_pooler_heads=2, **size)
    weights.save(core, folder / "core.safetensors")
    return {"decoder": str(folder / "decoder"), "tower": str(folder / "core.safetensors")}


@pytest.fixture(scope="module")
def first(parts, shape, conversations, tmp_path_factory):
    """Return the folder of a first stage, and what it returned."""
    out = tmp_path_factory.mktemp("stages") / "first"
    settings = {**SHORT, **parts}
    return out, train("lm-stage1", conversations, out, model="plm_1b", model_kwargs=shape, settings=settings)


def run(recipe, data, out, **options):
    settings = {**SHORT, **options.pop("settings", {})}
    return train(recipe, data, out, settings=settings, **options)


def test_the_first_stage_trains_a_projector_between_a_decoder_and_the_first_blocks_of_a_core(first, parts):
    out, trained = first
    check_run_folder(out, trained.model)
    state = weights.read(out)
    decoder, core = weights.read(parts["decoder"]), weights.read(parts["tower"])
    for name, value in decoder.items():
        assert torch.equal(state[f"decoder.{name}"], value), name
    own = {name.removeprefix("vision.tower.") for name in state if name.startswith("vision.tower.")}
    assert not any("ls1" in name or "blocks.2" in name or "attn_pool" in name for name in own)
    for name in own - {"pos_embed"}:
        assert torch.equal(state[f"vision.tower.{name}"], core[name]), name
    table = trained.model.vision.tower.resample("pos_embed", core["pos_embed"])
    assert core["pos_embed"].shape[1] == 10
    torch.testing.assert_close(state["vision.tower.pos_embed"], table)
    assert trained.scores.keys() == {"held-out loss"}


def test_the_card_says_what_a_stage_started_from_and_tells_no_paths(first, parts):
    out, _ = first
    card, record = ((out / name).read_text() for name in ("README.md", "training.json"))
    assert "- **Start**: `plm_1b` with the decoder of `decoder` and the tower of `core.safetensors`" in card
    assert 'license: "other"' in card
    assert "--set tower=core.safetensors" in card
    for path in parts.values():
        assert path not in card + record


def test_the_folder_of_a_stage_has_a_tokenizer_and_the_settings_of_its_media(first, tiny):
    out, _ = first
    processor = Processor.from_pretrained(out)
    assert processor.tokenizer.get_vocab() == tiny.tokenizer().get_vocab()
    assert (processor.settings.size, processor.settings.tokens, processor.settings.mode) == (32, 16, "vanilla")
    assert processor.max_length == 200
    facts = json.loads((out / "config.json").read_text())["plm"]
    assert (facts["max_length"], facts["media"]["tokens"], facts["recipe"]) == (200, 16, "lm-stage1")
    ids = lm.from_pretrained(out).generate(**processor("which shape?", [Image.new("RGB", (40, 30))]), max_new_tokens=2)
    assert processor.tokenizer.convert_tokens_to_ids("<|image|>") == lm.from_pretrained(out).image_token_id
    assert (ids == lm.from_pretrained(out).image_token_id).sum() == 16


def test_the_second_stage_starts_from_the_first_with_layer_scale_and_writes_the_tower(
    first, conversations, tiny, tmp_path, monkeypatch
):
    out, learned = tmp_path / "second", []
    monkeypatch.setattr(
        stages, "train_lm", lambda model, *args, **o: learned.append(model) or train_lm(model, *args, **o)
    )
    settings = {"keep_tower": True, "max_tiles": 2, "warmup_epochs": 1}
    trained = run("lm-stage2", conversations, out, model=str(first[0]), settings=settings, max_steps=1)
    check_run_folder(out, trained.model)
    before, after = weights.read(first[0]), weights.read(out)  # the rate of the first step of a warm-up is 0
    assert all(torch.equal(after[name], value) for name, value in before.items())
    gammas = {name: value for name, value in after.items() if name not in before}
    assert len(gammas) == 4
    assert all((value == 0.1).all() for value in gammas.values())
    assert trained.model.vision.projector.pooling_ratio == 2
    assert json.loads((out / "preprocessor.json").read_text())["tokens"] == 4
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in learned[0].vision.tower.blocks]
    assert rates == [0.0, 0.1]
    tower = create_tower(tiny.VISION)
    weights.load(tower, out / "tower.safetensors")
    assert torch.equal(tower.pos_embed, trained.model.vision.tower.pos_embed)
    assert trained.scores.keys() == {"held-out loss", "held-out short answers %"}


train_lm = stages.train_lm


@pytest.mark.parametrize("tied", [True, False])
def test_a_decoder_of_another_shape_brings_its_configuration(parts, tiny, conversations, tmp_path, tied):
    config = {**tiny.TEXT, "model_type": "qwen2", "hidden_size": 24, "tie_word_embeddings": tied}
    AutoModelForCausalLM.from_config(AutoConfig.for_model(**config)).save_pretrained(tmp_path / "decoder")
    options = {"model": "plm_1b", "model_kwargs": {"vision_config": tiny.VISION, "img_size": 32}, "max_steps": 1}
    settings = {"decoder": str(tmp_path / "decoder"), "tower": parts["tower"], "tokenizer": parts["decoder"]}
    trained = run("lm-stage1", conversations, tmp_path / "run", settings=settings, **options)
    assert trained.model.decoder.config.model_type == "qwen2"
    assert (trained.model.num_features, trained.model.tied) == (24, tied)
    check_run_folder(tmp_path / "run", trained.model)


def test_decoder_and_tokenizer_come_from_a_repository_of_the_hub(parts, shape, conversations, tmp_path, hub_double):
    hub_double.add("acme/decoder", {path.name: path for path in Path(parts["decoder"]).iterdir()})
    settings = {"decoder": "acme/decoder", "tower": parts["tower"]}
    options = {"model": "plm_1b", "model_kwargs": shape, "settings": settings, "max_steps": 1}
    trained = run("lm-stage1", conversations, tmp_path / "run", **options)
    words = weights.read(parts["decoder"])["model.embed_tokens.weight"]
    assert torch.equal(trained.model.decoder.get_input_embeddings().weight, words)
    assert "the decoder of `acme/decoder`" in (tmp_path / "run" / "README.md").read_text()
    assert (tmp_path / "run" / "tokenizer.json").is_file()


def test_a_resumed_stage_ends_as_an_undisturbed_one(shape, conversations, tmp_path):
    options = {"model": "plm_1b", "pretrained": False, "model_kwargs": shape, "seed": 5}
    whole = run("lm-stage3", conversations, tmp_path / "whole", **options)
    run("lm-stage3", conversations, tmp_path / "part", max_steps=2, **options)
    shutil.rmtree(tmp_path / "part" / "checkpoint-2" / "x", ignore_errors=True)
    resumed = run("lm-stage3", conversations, tmp_path / "part", resume=True, **options)
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], value, atol=1e-6, rtol=0)
    assert resumed.scores == pytest.approx(whole.scores, abs=1e-6)


def rows(folder, *records):
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file


def talk(answer):
    return {"conversations": [{"from": "human", "value": "say it"}, {"from": "assistant", "value": answer}]}


def test_rows_that_cannot_be_used_are_left_out_up_to_a_limit(shape, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    file = rows(data, *(talk("circle") for _ in range(20)), {**talk("star"), "image": "none.png"})
    options = {"model": "plm_1b", "pretrained": False, "model_kwargs": shape}
    with pytest.raises(InputError, match=r"rows\.jsonl, line 21: .*none\.png.*; max_bad=1 or more leaves such rows"):
        run("lm-finetune", file, tmp_path / "strict", **options, settings={"held_out": 0.0})
    trained = run("lm-finetune", file, tmp_path / "run", **options, settings={"held_out": 0.0, "max_bad": 1})
    assert trained.notes == {"Left out": "1 rows, which bad_rows.log lists"}
    assert "line 21" in json.loads((tmp_path / "run" / "bad_rows.log").read_text())["row"]
    assert trained.scores == {"training loss": trained.history[-1]["loss"]}
    assert run("lm-finetune", file, tmp_path / "all", **options, skip_unreadable=True).scores


def test_a_mix_of_a_registry(shape, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        rows(tmp_path / name, *(talk(name) for _ in range(10)))
    registry = tmp_path / "sets.yaml"
    registry.write_text("".join(f"{name}: {{annotation: {name}/rows.jsonl}}\n" for name in "ab"))
    options = {"model": "plm_1b", "pretrained": False, "model_kwargs": shape, "settings": {"mix": "a:1,b:1"}}
    trained = run("lm-finetune", registry, tmp_path / "run", **options)
    assert trained.data == "18 conversations of 2 sources, 2 held-out ones"
    assert trained.history[-1]["step"] == 2 * 18 // 8
    assert sum("held-out loss" in entry for entry in trained.history) == 2  # once for each of the two passes


# --- bad input


def test_wrong_starts_are_one_line(first, parts, shape, tiny, conversations, tmp_path, one_line):
    def refused(error, *said, recipe="lm-stage1", **options):
        with one_line(error, *said):
            run(recipe, conversations, tmp_path / "run", **{"model": "plm_1b", "model_kwargs": shape, **options})

    refused(InputError, "model 'resnet18' is no language model that sees", model="resnet18", preset="1b")
    half = {"decoder": parts["decoder"], "tower": None}
    refused(InputError, "tower is None", "both are needed, or none", settings=half)
    settings = {**parts, "decoder": str(first[0]), "tokenizer": parts["decoder"]}
    refused(WeightsError, "is no model of transformers: its config.json has no model_type", settings=settings)
    refused(InputError, "tokenizer 'no such' is neither a folder", settings={**parts, "tokenizer": "no such"})
    refused(InputError, "cannot be loaded", settings={**parts, "tokenizer": str(tmp_path)})
    small = {**shape, "text_config": {**tiny.TEXT, "vocab_size": 20}}
    settings = {"tokenizer": parts["decoder"]}
    refused(InputError, "and the decoder knows 20", settings=settings, model_kwargs=small, pretrained=False)
    deep = {**shape, "vision_config": {**tiny.VISION, "model_args": {**tiny.VISION["model_args"], "depth": 4}}}
    refused(WeightsError, "lack 12 tensors of the vision.tower, such as blocks.3.", settings=parts, model_kwargs=deep)
    wide = {**shape, "text_config": {**tiny.TEXT, "hidden_size": 32}}
    refused(WeightsError, "wrong shape", "decoder.", settings=parts, model_kwargs=wide)
    plain = {"architecture": "test_vit", "model_args": {}}
    refused(
        InputError, "layer_scale 0.0 is not allowed", settings=parts, model_kwargs={**shape, "vision_config": plain}
    )
    bare = tmp_path / "bare"
    shutil.copytree(first[0], bare, ignore=shutil.ignore_patterns("tokenizer*", "checkpoint-*", "chat*"))
    refused(InputError, "has no tokenizer beside it", model=str(bare), model_kwargs={}, recipe="lm-stage3")
    assert not (tmp_path / "run").exists()
