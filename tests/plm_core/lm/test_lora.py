"""Adapters of the decoder: they alone learn beside the projector, and are merged into what is saved."""

import json
from dataclasses import replace

import pytest
import torch

from plm_core import weights
from plm_core.errors import InputError
from plm_core.lm.data import pack
from plm_core.lm.documents import Learner
from plm_core.lm.recipes.adapters import add_adapters, merge
from plm_core.runs import train

RANK = {"lora_rank": 2, "lora_alpha": 6.0}


@pytest.fixture(scope="module")
def adapted(tiny, conversations):
    """Return the model with its adapters and the result of a training."""
    recipe = replace(tiny.RECIPE, optimizer="adamw", lr=1e-2)
    return tiny.trained(conversations, replace(tiny.CONFIG, recipe=recipe, **RANK))[:2]


def test_adapters_and_projector_learn_and_nothing_else(tiny, adapted):
    model, result = adapted
    before = tiny.untrained().state_dict()
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name.rpartition("lora_")[1] or "vision.projector." for name in learning} == {"lora_", "vision.projector."}
    assert sum("lora_A" in name for name in learning) == 2 * 7  # all layers of both blocks
    assert result.state.keys() == before.keys()
    changed = {name for name, value in before.items() if not torch.equal(value, result.state[name])}
    projections = {name for name in before if "layers." in name and "_proj." in name}
    assert changed == projections | {name for name in before if name.startswith("vision.projector.")}


def test_merged_weights_answer_as_the_adapted_model(tiny, adapted, conversations):
    model, result = adapted
    merged = tiny.untrained()
    merged.load_state_dict(result.state)
    data = tiny.samples(conversations, "validation.jsonl")
    batch = pack([data[index] for index in range(4)])
    logits = [Learner(part.eval())(batch, logits=True) for part in (model, merged, tiny.untrained())]
    torch.testing.assert_close(logits[0], logits[1], atol=1e-5, rtol=0)
    assert (logits[0] - logits[2]).abs().max() > 1e-2


def test_new_adapters_change_nothing_and_their_scale_is_alpha_by_rank(tiny):
    model, config = tiny.untrained(), replace(tiny.CONFIG, lora_targets=("q_proj", "v_proj"), **RANK)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    add_adapters(model.decoder, config)
    state = model.state_dict()
    assert sum("lora_A" in name for name in state) == 2 * 2
    assert all(torch.equal(value, before[name]) for name, value in merge(state, config).items())
    name = "decoder.model.layers.1.self_attn.v_proj"
    a, b = state[f"{name}.lora_A.default.weight"], torch.ones_like(state[f"{name}.lora_B.default.weight"])
    merged = merge({**state, f"{name}.lora_B.default.weight": b}, config)[f"{name}.weight"]
    torch.testing.assert_close(merged, before[f"{name}.weight"] + 3 * b @ a)


def test_a_finetuning_through_adapters_leaves_a_plain_model_folder(tiny, conversations, tmp_path):
    shape = {"vision_config": tiny.VISION, "text_config": tiny.TEXT, "img_size": 32}
    trained = train(
        "lm-finetune",
        conversations,
        tmp_path / "run",
        model="plm_1b",
        preset="lora",
        pretrained=False,
        model_kwargs=shape,
        settings={"lora_rank": 2, "batch_size": 8, "epochs": 1},
    )
    state = weights.read(tmp_path / "run")
    assert not any("lora" in name or "base_layer" in name for name in state)
    assert state.keys() == trained.model.state_dict().keys()
    assert json.loads((tmp_path / "run" / "training.json").read_text())["config"]["lora_rank"] == 2


def test_a_decoder_without_such_layers_is_refused(tiny):
    config = replace(tiny.CONFIG, lora_targets=("c_attn",), **RANK)
    with pytest.raises(InputError, match=r"lora_targets \('c_attn',\) is not allowed: the decoder, a LlamaForCausalLM"):
        add_adapters(tiny.untrained().decoder, config)
