"""Three studies on micro ViTs: merging against dropping tokens, and where a merged token should stand.

Each study trains models from several seeds, without merging, and then takes tokens away from them without further
training: from a plain ViT on digits, from the same ViT on silhouettes of shapes, and from a rotary one on silhouettes.

Weights and scores of each study and seed are files in the output folder, so a run that was stopped continues there.
Training needs the extra ``tome[train]``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from plm_core import blocks, weights
from plm_core.training import seeded
from plm_core.training.finetuning import accuracy, finetune
from plm_core.training.micro import InMemory, silhouettes
from plm_core.utils.files import write_text
from tome.api import applied
from tome.experiments.data import Split, digits
from tome.experiments.models import plain_vit, rotary_vit
from tome.experiments.pruning import class_attention, dropping, random_importance
from tome.experiments.rotary import placing
from tome.micro.shapes import CONFIG

Method = Callable[[nn.Module, int], AbstractContextManager[nn.Module]]
"""(model, r) -> a context in which the model has r tokens fewer after each block."""
Row = dict[str, Any]
"""study, seed, way (the name of the method), r, tokens (left after the last block), top1 (held-out, in %)."""

RIVALS: Mapping[str, Method] = {
    "merging": applied,
    "merging, prop_attn=False": partial(applied, prop_attn=False),
    "pruning by attention": partial(dropping, importance=class_attention),
    "random dropping": partial(dropping, importance=random_importance),
}
PLACES: Mapping[str, Method] = {
    "destination": placing,
    "source": partial(placing, place="source"),
    "mean": partial(applied, positions="mean"),
    "mean of angles": partial(placing, place="mean of angles"),
    "destination, matched by rotated keys": partial(placing, rotated_keys=True),
    "of any token (control)": partial(placing, place="random"),
}


@dataclass(frozen=True)
class Study:
    """Models trained on one kind of data, and the methods that are compared on them."""

    model: Callable[[], nn.Module]
    data: Callable[[Split, int], InMemory]
    num_classes: int
    methods: Mapping[str, Method]
    epochs: float
    batch_size: int
    num_train: int
    num_held_out: int
    r: tuple[int, ...] = (4, 8, 10, 12, 14, 16, 20, 32)
    """Tokens to take away in every block. r=0, the unchanged model, is always measured too."""


STUDIES: dict[str, Study] = {
    "digits": Study(
        model=partial(plain_vit, 10),
        data=digits,
        num_classes=10,
        methods=RIVALS,
        epochs=30,
        batch_size=16,
        num_train=1437,
        num_held_out=360,
    ),
    "shapes": Study(
        model=partial(plain_vit, 8),
        data=silhouettes,
        num_classes=8,
        methods=RIVALS,
        epochs=4,
        batch_size=32,
        num_train=6000,
        num_held_out=2000,
    ),
    "rotary": Study(
        model=partial(rotary_vit, 8),
        data=silhouettes,
        num_classes=8,
        methods=PLACES,
        epochs=4,
        batch_size=32,
        num_train=6000,
        num_held_out=2000,
    ),
}


def measure(name: str, seed: int, out: Path) -> list[Row]:
    """Return the rows of one study and seed, read from their file or measured and written to it.

    Args:
        name: A key of `STUDIES`.
        seed: Random seed of the model's training and of the methods.
        out: Folder for the files.

    Returns:
        One row for each method and r.
    """
    file = out / f"{name}_{seed}.json"
    if not file.exists():
        study = STUDIES[name]
        model = load_or_train(study, seed, out / f"{name}_{seed}.safetensors")
        held_out = study.data("heldout", study.num_held_out)
        unchanged = {"study": name, "seed": seed, "r": 0, "top1": accuracy(model, held_out, batch_size=200)}
        unchanged["tokens"] = count_tokens(model, held_out.x[:1])
        rows = []
        for method, apply in study.methods.items():
            rows.append({**unchanged, "way": method})
            for r in study.r:
                with seeded(seed, r), apply(model, r):
                    top1 = accuracy(model, held_out, batch_size=200)
                    left = count_tokens(model, held_out.x[:1])
                rows.append({**unchanged, "way": method, "r": r, "tokens": left, "top1": top1})
        write_text(file, json.dumps(rows, indent=1))
    measured: list[Row] = json.loads(file.read_text(encoding="utf-8"))
    return measured


def load_or_train(study: Study, seed: int, file: Path) -> nn.Module:
    """Return the model of one seed, read from its file or trained and written to it.

    Args:
        study: The study that the model belongs to.
        seed: Random seed of initialisation, order and augmentation.
        file: Where the weights are, or go.
    """
    torch.manual_seed(seed)
    model = study.model()
    if file.exists():
        model.load_state_dict(weights.read(file))
    else:
        warmup = study.epochs / 20
        recipe = replace(CONFIG.recipe, epochs=study.epochs, batch_size=study.batch_size, lr=2e-3, warmup_epochs=warmup)
        data = study.data("train", study.num_train)
        finetune(model, data, replace(CONFIG, recipe=recipe), study.num_classes, seed=seed)
        weights.write(model.state_dict(), file)
    return model.eval()


def count_tokens(model: nn.Module, x: Tensor) -> int:
    """Return the number of tokens after the last block of a model."""
    counts: list[int] = []
    last = blocks.view(model).blocks[-1].block
    hook = last.register_forward_hook(lambda module, args, y: counts.append(y.shape[1]))
    with torch.no_grad():
        model(x)
    hook.remove()
    return counts[0]
