"""The trainings of the Perception Language Model: three stages, and finetuning (arXiv 2504.13180, section 3.2).

    result = train_lm(model, samples, FINETUNE["default"])

- ``tables``: the settings as data: `STAGE1`, `STAGE2`, `STAGE3`, `FINETUNE`.
- ``stages``: the recipes of ``plm train``.
- ``training``: `train_lm`, its loss, and what is frozen.
- ``adapters``: low-rank adapters of the decoder, by peft.
- ``splits``: the rows to train on, and the held-out ones.
- ``starting``: the model with the weights that a training begins with.
- ``tokenizers``: the tokenizer of a training, and the files beside a model.
- ``scoring``: the loss and the short answers of held-out rows.

The names below are imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plm_core.utils.lazy import attributes

if TYPE_CHECKING:
    from plm_core.lm.recipes.scoring import score
    from plm_core.lm.recipes.tables import FINETUNE, STAGE1, STAGE2, STAGE3, StageConfig, StageRecipe
    from plm_core.lm.recipes.training import train_lm

_LAZY = {
    **dict.fromkeys(
        ("FINETUNE", "STAGE1", "STAGE2", "STAGE3", "StageConfig", "StageRecipe"), "plm_core.lm.recipes.tables"
    ),
    "score": "plm_core.lm.recipes.scoring",
    "train_lm": "plm_core.lm.recipes.training",
}

__all__ = ["FINETUNE", "STAGE1", "STAGE2", "STAGE3", "StageConfig", "StageRecipe", "score", "train_lm"]

__getattr__, __dir__ = attributes(__name__, "plm-core", _LAZY)
