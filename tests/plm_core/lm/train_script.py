"""Train a tiny language model that sees, for the tests, and in several ways for test_lm_distributed.py.

``torchrun ... train_script.py OUT CONVERSATIONS``. Only the order of the data is random, so every way of training
should lead to the same weights.
"""

import gc
import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor
from torch.utils.data import Subset
from transformers import TrainerCallback

from plm_core import weights
from plm_core.errors import TrainingInterrupted
from plm_core.lm.builders import perception_lm
from plm_core.lm.data import ConversationSamples, open_rows
from plm_core.lm.media import MediaSettings
from plm_core.lm.recipes import StageConfig, StageRecipe, train_lm
from plm_core.lm.recipes import training as lm_training
from plm_core.lm.recipes.scoring import score
from plm_core.lm.recipes.tokenizers import tokenizer_of

VISION = {
    "architecture": "vit_pe_core_large_patch14_336",
    "model_args": {
        "patch_size": 8,
        "embed_dim": 16,
        "depth": 2,
        "num_heads": 2,
        "mlp_ratio": 2.0,
        "img_size": [32, 32],
        "init_values": 0.1,
    },
}
TEXT = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 64,
    "tie_word_embeddings": True,
}
TINY = {"vision_config": VISION, "text_config": TEXT, "projector_pooling_ratio": 2}
SETTINGS = MediaSettings(size=32, tokens=4, max_tiles=2)
WORDS = "which shape is it ? say circle and : first square triangle star cross ring heart diamond"
# Not AdamW: it steps by the signs of gradients that should be zero, and are only nearly so.
RECIPE = StageRecipe(
    epochs=1, batch_size=8, lr=0.5, optimizer="sgd", weight_decay=1e-3, warmup_epochs=0.5, clip_grad=1.0
)
CONFIG = StageConfig(recipe=RECIPE, recompute=True)
FOURS = replace(CONFIG, recipe=replace(RECIPE, batch_size=4))


def tokenizer():
    return tokenizer_of([WORDS], 64)


def samples(folder, file="train.jsonl", **options):
    """Return the conversations in a folder as samples."""
    options = {"max_length": 128, "system": "", **options}
    return ConversationSamples(open_rows(folder / file), tokenizer(), SETTINGS, **options)


def untrained(**changes):
    """Return a tiny model with random weights, the same ones each time."""
    torch.manual_seed(0)
    image_id = tokenizer().convert_tokens_to_ids("<|image|>")
    return perception_lm(**{**TINY, "image_token_id": image_id, **changes})


def trained(folder, config=CONFIG, rows=24, **options):
    """Train on some rows. Return the model, the result, and for each batch the share of the parameters held here."""
    model, held = untrained(), []
    plain_loss = lm_training.loss

    def loss(learner, batch):
        parameters = list(learner.parameters())
        local = (p.to_local() if isinstance(p, DTensor) else p for p in parameters)
        held.append(sum(p.numel() for p in local) / sum(p.numel() for p in parameters))
        return plain_loss(learner, batch)

    def judge(learner):
        data = samples(folder, "validation.jsonl")
        return score(learner, Subset(data, range(2)), data.encoder)

    lm_training.loss = loss
    try:
        data, options = Subset(samples(folder), range(rows)), {"log_steps": 1, "show": False, **options}
        result = train_lm(model, data, config, evaluate=judge, **options)
    except TrainingInterrupted:
        result = None
    finally:
        lm_training.loss = plain_loss
    return model, result, held


class InterruptMainProcess(TrainerCallback):
    """Send SIGINT to the main process during the second step."""

    def on_step_begin(self, args, state, control, **_):
        if state.global_step == 1 and state.is_world_process_zero:
            signal.raise_signal(signal.SIGINT)


def main(out, folder):
    report = {}
    runs = {
        "sharded": {"fsdp": True},
        "stopped": {"fsdp": True, "out": out / "checkpoints", "callbacks": [InterruptMainProcess()]},
        "resumed": {"fsdp": True, "out": out / "checkpoints", "resume": True},
        "adapted": {"fsdp": True, "config": replace(FOURS, lora_rank=2)},
        "copied": {},
    }
    for name, options in runs.items():
        _, result, held = trained(folder, **{"config": FOURS, "rows": 12, "per_device_batch_size": 1, **options})
        report[name] = {"held": held}
        if result is None:
            continue
        losses = [entry["loss"] for entry in result.history]
        report[name] |= {"main": result.main, "tensors": len(result.state), "losses": losses}
        report[name]["score"] = result.history[-1]["held-out loss"]
        if result.main:
            weights.write(result.state, out / f"{name}.safetensors")
    (out / f"report{os.environ['RANK']}.json").write_text(json.dumps(report))


if __name__ == "__main__":
    gc.freeze()  # every training ends with a collection, which takes long among the objects of the libraries
    main(Path(sys.argv[1]), Path(sys.argv[2]))
