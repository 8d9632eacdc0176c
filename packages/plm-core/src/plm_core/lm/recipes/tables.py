"""The three stages of training as tables (arXiv 2504.13180, section 3.2 and its tables), and presets of our own.

Each configuration is data, and `dataclasses.replace` makes a changed one. The sizes ``1b``, ``3b`` and ``8b`` are those
of the paper; their seed is `SEED`. Where the text of the paper and the released configurations differ, the numbers here
are those of the configurations, with which the published models were trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from plm_core.errors import InputError
from plm_core.lm.configs import MAX_FRAMES, MAX_LENGTH, MAX_TILES, SIZES
from plm_core.training import Recipe
from plm_core.training.checks import AT_LEAST_0, AT_LEAST_1, MORE_THAN_0, RATE, SHARE, Range, check_config

SEED = 777
"""The seed of the published models, for ``--seed``."""
LENGTH: Range = (lambda length: length >= 2, "2 or more")


@dataclass(frozen=True, kw_only=True)
class StageRecipe(Recipe):
    """A recipe whose cosine ends above zero.

    Attributes:
        final: Learning rate at the end, as a fraction of ``lr``.
    """

    final: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        check_config(self, final=SHARE)

    def lr_factor(self, step: int, steps: int) -> float:
        """Return the learning rate at a step, of ``steps`` in all, as a fraction of ``lr``."""
        factor = super().lr_factor(step, steps)
        warming_up = step / max(steps, 1) < self.warmup_epochs / self.epochs
        return factor if warming_up else self.final + (1 - self.final) * factor


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """A training of a language model that sees.

    Attributes:
        recipe: The optimisation.
        trained: The parts that learn: "projector" for that alone, "all" for tower, projector and decoder.
        lora_rank: Rank of low-rank adapters, through which the decoder learns in place of its own weights. The tower
            then stays as it is, and the projector learns in full. None for no adapters.
        lora_alpha: The adapters' outputs are scaled by ``lora_alpha / lora_rank``.
        lora_targets: The layers of the decoder that have adapters, by the last part of their names.
        mode: "chat" trains the answers of conversations; "warmup" trains captions, without questions and turns.
        max_length: The most tokens of a conversation, visual ones too.
        pooling_ratio: Patches per visual token along each side; None for what the model has.
        tiling: "thumb+tile" for a thumbnail and tiles of an image; "vanilla" for the thumbnail alone.
        max_tiles: The most tiles of an image.
        max_frames: The most frames of a video.
        max_tokens: The most visual tokens of an image or a video; None for what tiles and frames give.
        drop_path: Rate of dropped paths in the last block of the tower, which rises to it by depth.
        layer_scale: Layer scale of a tower of the Perception Encoder: 0 for none, or the value with which scales begin
            that the starting weights lack. None for what the model has.
        recompute: Whether activations are computed again in the backward pass, which saves memory and costs time.
        decoder: The language model to start from: a folder or a repository of the Hub that transformers reads. None if
            the starting weights hold one.
        tower: The vision tower to start from, as `plm_core.weights.read` takes it, of which the first blocks are taken;
            None if the starting weights hold one.
        tokenizer: The tokenizer, a folder or a repository; None for that of the model or of ``decoder``.
        mix: Sources of a registry and their weights, as in ``photos:2,charts:1``; None for all, by their rows.
        held_out: Share of the rows that is held out where there is no ``validation.jsonl``.
        max_scored: The most held-out rows that are scored.
        max_bad: The number of rows that may be left out since they cannot be used.
        keep_tower: Whether the tower is also written by itself, as ``tower.safetensors``. After the second stage it is
            aligned to language, as PE-Lang is.
    """

    recipe: Recipe
    trained: Literal["projector", "all"] = "all"
    lora_rank: int | None = None
    lora_alpha: float = 32.0
    lora_targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    mode: Literal["chat", "warmup"] = "chat"
    max_length: int = MAX_LENGTH
    pooling_ratio: int | None = None
    tiling: Literal["thumb+tile", "vanilla"] = "thumb+tile"
    max_tiles: int = MAX_TILES
    max_frames: int = MAX_FRAMES
    max_tokens: int | None = None
    drop_path: float = 0.0
    layer_scale: float | None = None
    recompute: bool = False
    decoder: str | None = None
    tower: str | None = None
    tokenizer: str | None = None
    mix: str | None = None
    held_out: float = 0.01
    max_scored: int = 500
    max_bad: int = 0
    keep_tower: bool = False

    def __post_init__(self) -> None:
        check_config(
            self,
            lora_rank=AT_LEAST_1,
            lora_alpha=MORE_THAN_0,
            max_length=LENGTH,
            pooling_ratio=AT_LEAST_1,
            max_tiles=AT_LEAST_1,
            max_frames=AT_LEAST_1,
            max_tokens=AT_LEAST_1,
            drop_path=RATE,
            layer_scale=AT_LEAST_0,
            held_out=RATE,
            max_scored=AT_LEAST_1,
            max_bad=AT_LEAST_0,
        )
        if self.lora_rank is not None and self.trained == "projector":
            raise InputError(
                f"lora_rank {self.lora_rank} is not allowed with trained='projector', where the decoder does not learn"
            )


def _recipe(steps: int, warmup: int, batch_size: int, samples: float, lr: float, weight_decay: float) -> StageRecipe:
    """Return the optimisation of a stage that took ``steps`` steps over a mix of so many samples.

    The warm-up is a number of steps there. As a share of the training it suits shorter trainings too.
    """
    return StageRecipe(
        epochs=steps * batch_size / samples,
        batch_size=batch_size,
        lr=lr,
        betas=(0.9, 0.95),
        weight_decay=weight_decay,
        decay_all=True,
        warmup_epochs=warmup * batch_size / samples,
        clip_grad=1.0,
    )


DECAY = {"1b": 0.01, "3b": 0.01, "8b": 0.05}
"""Weight decay by size in the configurations. The text of the paper has 0.05 for all."""
CORE = {"1b": "pe_core_l14_336.fb", "3b": "pe_core_l14_336.fb", "8b": "pe_core_g14_448.fb"}
"""The vision tower that each size starts from."""
LAYER_SCALE = 0.1
"""Layer scale at the start of the second stage. The first stage has none."""

_MICRO = StageConfig(
    recipe=StageRecipe(
        epochs=10, batch_size=16, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.01, warmup_epochs=1, clip_grad=1.0
    ),
    max_length=512,
    max_tiles=4,
    max_frames=8,
    held_out=0.1,
)
"""Our own, for a micro model and a few thousand rows."""

STAGE1: Mapping[str, StageConfig] = {
    # One million captions of SA-1B, of which the table of the paper has four passes. Per device: 16 at a time.
    **{
        name: StageConfig(
            recipe=_recipe(8_000, 20, 512, 1e6, lr=1e-4, weight_decay=DECAY[name]),
            trained="projector",
            mode="warmup",
            max_length=1280,
            pooling_ratio=1,
            tiling="vanilla",
            max_tiles=1,
            max_frames=8,  # the configuration has this number, though there are no videos in this stage
            layer_scale=0.0,
            recompute=True,
            decoder=size.decoder,
            tower=CORE[name],
        )
        for name, size in SIZES.items()
    },
    "micro": replace(_MICRO, trained="projector", mode="warmup", tiling="vanilla", max_tiles=1),
}
"""The presets of ``lm-stage1``: captions, and the projector alone learns."""

STAGE2: Mapping[str, StageConfig] = {
    # 72.5 million samples: 66 million synthetic ones (64.7 in the text) and 6.5 million by people. 4 at a time, 8B: 2.
    **{
        name: StageConfig(
            recipe=_recipe(35_000, 120, 2_048, 72.5e6, lr=4e-5, weight_decay=DECAY[name]),
            max_length=6144,
            pooling_ratio=2,
            max_tiles=16,
            max_frames=16,
            drop_path=0.1,
            layer_scale=LAYER_SCALE,
            recompute=True,
        )
        for name in SIZES
    },
    "micro": _MICRO,
}
"""The presets of ``lm-stage2``: synthetic data, and everything learns."""

STAGE3: Mapping[str, StageConfig] = {
    # 19.1 million samples, most of them by people. 2 at a time. The text of the paper has a length of 11264.
    **{
        name: replace(
            STAGE2[name],
            recipe=_recipe(21_000, 120, 1_024, 19.1e6, lr=1e-5 if name == "8b" else 4e-5, weight_decay=DECAY[name]),
            max_length=MAX_LENGTH,
            max_tiles=MAX_TILES,
            max_frames=MAX_FRAMES,
        )
        for name in SIZES
    },
    "micro": _MICRO,
}
"""The presets of ``lm-stage3``: conversations by people, and everything learns."""

FINETUNE: Mapping[str, StageConfig] = {
    # Our own: the low rate of the third stage of 8B, and a warm-up of three percent.
    "default": StageConfig(
        recipe=StageRecipe(
            epochs=1, batch_size=64, lr=1e-5, betas=(0.9, 0.95), weight_decay=0.0, warmup_epochs=0.03, clip_grad=1.0
        ),
        recompute=True,
    ),
    # Adapters start at zero and are few, so they take a higher rate.
    "lora": StageConfig(
        recipe=StageRecipe(
            epochs=3, batch_size=32, lr=2e-4, betas=(0.9, 0.95), weight_decay=0.0, warmup_epochs=0.1, clip_grad=1.0
        ),
        lora_rank=16,
        recompute=True,
    ),
    "micro": _MICRO,
}
"""The presets of ``lm-finetune``: conversations of your own, for a model that is trained already."""
