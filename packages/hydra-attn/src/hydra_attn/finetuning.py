"""Training with Hydra in place of the softmax: the paper's recipe, and distillation from the model with the softmax.

Weights that were trained with the softmax are of little use with Hydra, so there are two ways. `finetune` trains with
the labels, from scratch as the paper does, or from weights. `distill` starts from a classifier that was trained with
the softmax, the teacher, and trains a copy of it with Hydra to do what the teacher does, block by block and in the
logits.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from hydra_attn.api import NAME, ORDERS, altered_blocks, apply, chosen_views, remove
from hydra_attn.attention import KERNELS
from hydra_attn.plugin import FAMILY
from plm_core.errors import InputError
from plm_core.hookspecs import Model
from plm_core.models import class_names, create_model
from plm_core.registry import registry
from plm_core.runs import Job, Trained
from plm_core.runs.classification import train_classifier
from plm_core.runs.job import architecture_of
from plm_core.training import Recipe, TrainResult, fit
from plm_core.training.checks import AT_LEAST_0, MORE_THAN_0, check_config
from plm_core.training.finetuning import FinetuneConfig, mixer
from plm_core.training.finetuning import finetune as plain_finetune
from plm_core.transforms import parse


@dataclass(frozen=True, kw_only=True)
class HydraConfig(FinetuneConfig):
    """A supervised training with Hydra in some blocks.

    Attributes:
        layers: The arguments of `hydra_attn.apply`, as ``order`` and ``kernel``.
        order: See there.
        kernel: See there.
    """

    layers: int | tuple[int, ...] | Literal["all"] = 2
    order: str = "backward"
    kernel: str = "cosine"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_config(
            self,
            order=(lambda order: order in ORDERS, f"one of {', '.join(ORDERS)}"),
            kernel=(lambda kernel: kernel in KERNELS, f"one of {', '.join(KERNELS)}"),
        )


@dataclass(frozen=True, kw_only=True)
class DistillConfig(HydraConfig):
    """A training of a model with Hydra to do what it does with the softmax.

    Attributes:
        blocks: Weight of the distance between the outputs of the changed blocks, each relative to their variance.
        logits: Weight of the Kullback-Leibler divergence of the class probabilities from the teacher's.
        labels: Weight of the loss of the labels.
        temperature: What logits are divided by before they are compared. The divergence is multiplied by its square.
    """

    blocks: float = 1.0
    logits: float = 1.0
    labels: float = 0.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_config(self, blocks=AT_LEAST_0, logits=AT_LEAST_0, labels=AT_LEAST_0, temperature=MORE_THAN_0)
        if not (self.blocks or self.logits or self.labels):
            raise InputError("blocks, logits and labels are all 0: there is nothing to learn from")


# DeiT (arXiv 2012.12877, table 9), by which an independent reproduction comes to the paper's accuracies with 8 and 12
# layers: https://github.com/alibaba/EasyCV. It also averages the weights over the steps, varies colours and erases
# patches, which our trainings do not.
_DEIT = HydraConfig(
    recipe=Recipe(
        epochs=300, batch_size=1024, lr=1e-3, weight_decay=0.05, warmup_epochs=5, warmup_start=1e-3, aug_repeats=4
    ),
    drop_path=0.1,
    auto_augment="rand-m9-mstd0.5-inc1",
)
PAPER: dict[str, HydraConfig] = {
    "deit_last2": _DEIT,
    "deit_last8": replace(_DEIT, layers=8),
    "deit_all": replace(_DEIT, layers="all"),
}
"""The trainings of the paper's figure 3, DeiT-B with its last 2, its last 8 and all 12 layers replaced."""

PRESETS: dict[str, HydraConfig] = {
    **PAPER,
    "micro": HydraConfig.plain(
        Recipe(epochs=20, batch_size=64, lr=1e-3, weight_decay=0.05, warmup_epochs=1, clip_grad=1.0)
    ),
}
"""The presets of the recipe ``hydra-finetune``."""

DISTILL_PRESETS: dict[str, DistillConfig] = {
    "default": DistillConfig(
        recipe=Recipe(epochs=30, batch_size=256, lr=5e-4, weight_decay=0.05, warmup_epochs=2, clip_grad=1.0),
        drop_path=0.0,
        mixup=0.0,
        cutmix=0.0,
        scale=(0.35, 1.0),
    ),
    "micro": DistillConfig.plain(
        Recipe(epochs=10, batch_size=64, lr=1e-3, weight_decay=0.05, warmup_epochs=1, clip_grad=1.0)
    ),
}
"""The presets of the recipe ``hydra-distill``. They are our own, since the paper has none."""


def finetune(
    model: nn.Module, data: Dataset[Any], config: HydraConfig, num_classes: int, **options: Any
) -> TrainResult:
    """Train a classifier in place with Hydra in some of its blocks. Hydra stays applied afterwards.

    Args:
        model: A model that `hydra_attn.apply` works on. If Hydra is applied already, it is applied anew by the config.
        data: A dataset of (input, label).
        config: One of `PAPER`, or your own.
        num_classes: Number of classes.
        **options: Keyword arguments of `plm_core.training.fit`.

    Returns:
        The result of `plm_core.training.finetuning.finetune`.

    Raises:
        NotSupported: The model cannot have Hydra. The model is unchanged.
    """
    _check_config(config, HydraConfig)
    _renew(model, config)
    return plain_finetune(model, data, config, num_classes, **options)


def distill(
    model: nn.Module, data: Dataset[Any], config: DistillConfig, num_classes: int, **options: Any
) -> TrainResult:
    """Train a classifier in place to do with Hydra what it does with the softmax. Hydra stays applied afterwards.

    Args:
        model: A trained classifier that `hydra_attn.apply` works on. The teacher is a copy of it with the softmax.
        data: A dataset of (input, label). Labels count only if ``config.labels`` is not 0.
        config: The settings.
        num_classes: Number of classes.
        **options: Keyword arguments of `plm_core.training.fit`.

    Returns:
        The result of `plm_core.training.fit`, whose history has each part of the loss.

    Raises:
        NotSupported: The model cannot have Hydra. The model is unchanged.
    """
    _check_config(config, DistillConfig)
    teacher = copy.deepcopy(model)
    if altered_blocks(teacher):
        remove(teacher)
    teacher.requires_grad_(False).eval()
    _renew(model, config)
    names = {module: name for name, module in model.named_modules()}
    blocks = {names[block]: block for block in altered_blocks(model)}
    originals = {name: teacher.get_submodule(name) for name in blocks}
    mix = mixer(config, num_classes)

    def loss(model: nn.Module, batch: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
        x, y = mix(*batch) if mix else batch
        teacher.to(x.device)
        with torch.no_grad(), _outputs(originals) as expected:
            target = teacher(x)
        with _outputs(blocks) as seen:
            logits = model(x)
        parts = {
            "blocks": torch.stack([_distance(seen[name], expected[name]) for name in blocks]).mean(),
            "logits": _divergence(logits, target, config.temperature),
            "labels": F.cross_entropy(logits, y, label_smoothing=0.0 if mix else config.smoothing),
        }
        return sum(getattr(config, name) * part for name, part in parts.items()), parts

    return fit(model, data, loss, config.recipe, **options)


def run_finetune(job: Job) -> Trained | None:
    """Train a classifier of images with Hydra, as ``plm train hydra-finetune`` does."""
    return _noted(train_classifier(_with_hydra(job)), job)


def run_distill(job: Job) -> Trained | None:
    """Train a pretrained classifier of images to do without the softmax, as ``plm train hydra-distill`` does.

    Raises:
        InputError: The pretrained classifier is for other classes than the data, or has Hydra already, so there is
            nothing to imitate.
    """
    with torch.device("meta"):
        start = create_model(job.model, **job.model_kwargs)
    if job.pretrained and altered_blocks(start):
        raise InputError(
            f"model {job.model!r} has Hydra already, so there is no softmax to imitate: name a model that was trained "
            "with the softmax, such as one of hydra_layers=0"
        )

    def imitate(model: nn.Module, data: Any, config: DistillConfig, num_classes: int, **options: Any) -> TrainResult:
        if config.logits and job.pretrained and list(data.classes) not in class_names(model):
            raise InputError(
                f"model {job.model!r} is no classifier of the classes of data {job.data!r}, so there is nothing to "
                "imitate: finetune it on them first, and name the folder of that run"
            )
        return distill(model, data, config, num_classes, **options)

    return _noted(train_classifier(_with_hydra(job), imitate), job)


def _with_hydra(job: Job) -> Job:
    """Return the job of a model that has Hydra by its config: in its own arguments if there are any, else applied."""
    config = job.config
    options = {"layers": config.layers, "order": config.order, "kernel": config.kernel}
    given = sorted(name for name in job.model_kwargs if name.removeprefix("hydra_") in options)
    entry = registry().all(Model).get(architecture_of(job.model))
    if entry is not None and entry.declaration.family == FAMILY:
        if given:
            setting = given[0].removeprefix("hydra_")
            raise InputError(f"model_kwargs has {given[0]}, which follows from the setting {setting}; leave it out")
        return replace(job, model_kwargs={**job.model_kwargs, **{f"hydra_{key}": x for key, x in options.items()}})
    text = ",".join(f"{key}={value}" for key, value in options.items())
    return replace(job, transforms=(*job.transforms, f"{NAME}:{text}"))


def _noted(trained: Trained | None, job: Job) -> Trained | None:
    """Say in the card of a model that cannot hold Hydra itself how it is applied."""
    transform = next((text for text in _with_hydra(job).transforms if text.startswith(f"{NAME}:")), None)
    if trained is None or transform is None:
        return trained
    name, options = parse(transform)
    words = ", ".join([repr(name), *(f"{key}={value!r}" for key, value in options.items())])
    note = f"These weights were trained with Hydra and need it: `plm_core.apply(model, {words})` after loading."
    return replace(trained, notes={**trained.notes, "Hydra Attention": note})


def _check_config(config: object, kind: type[HydraConfig]) -> None:
    if not isinstance(config, kind):
        raise InputError(f"config is a {type(config).__name__}; it is a {kind.__name__}")


def _renew(model: nn.Module, config: HydraConfig) -> None:
    chosen_views(model, config.layers, config.order, config.kernel)  # an error comes before anything is changed
    if altered_blocks(model):
        remove(model)
    apply(model, config.layers, config.order, config.kernel)  # type: ignore[arg-type]


@contextmanager
def _outputs(blocks: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Record what blocks return."""
    seen: dict[str, Tensor] = {}

    def record(name: str) -> Any:
        def hook(block: nn.Module, args: Any, output: Tensor | Sequence[Tensor]) -> None:
            seen[name] = output if isinstance(output, Tensor) else output[0]

        return hook

    hooks = [block.register_forward_hook(record(name)) for name, block in blocks.items()]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _distance(x: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared distance of tokens from others, relative to the variance of these over all tokens."""
    return (x.float() - target.float()).square().mean() / target.float().var((0, 1)).mean().clamp_min(1e-12)


def _divergence(logits: Tensor, target: Tensor, temperature: float) -> Tensor:
    log_probs, expected = (F.log_softmax(x.float() / temperature, -1) for x in (logits, target))
    return F.kl_div(log_probs, expected, log_target=True, reduction="batchmean") * temperature**2
