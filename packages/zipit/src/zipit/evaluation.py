"""How good merged models are: accuracies of several tasks, and what a model costs (arXiv 2305.03053, section 5).

A task is a list of classes. Scores have a column for each class of all tasks, and class k is column k.

Shapes: N images, K classes of all tasks, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from plm_core import InputError, NotSupported, create_model
from zipit.combining import in_eval_mode

Tasks = Sequence[Sequence[int]]
"""The classes of each task."""


@dataclass(frozen=True)
class Accuracy:
    """Accuracies of several tasks, in percent.

    Attributes:
        joint: The share of all images whose best class of all tasks is right. The task of an image is not known.
        tasks: For each task, the share of its images whose best class of this task is right. The task is known.
    """

    joint: float
    tasks: tuple[float, ...]

    @property
    def average(self) -> float:
        """Return the mean over the tasks."""
        return sum(self.tasks) / len(self.tasks)


def accuracy(scores: Tensor, labels: Tensor, tasks: Tasks) -> Accuracy:
    """Compute the joint accuracy, and that of each task.

    Args:
        scores: [N, K].
        labels: The class of each image, int64 [N]. Images whose class is in no task are left out.
        tasks: The classes of each task.

    Raises:
        InputError: The shapes differ, a task has no class or one that has no column, or a task has no image.
    """
    _check_tasks(tasks, scores.shape[-1])
    classes = torch.tensor(sorted(k for task in tasks for k in task), device=labels.device)
    known = torch.isin(labels, classes)
    only = torch.full_like(scores, float("-inf"))
    only[:, classes] = scores[:, classes]
    return Accuracy(
        joint_accuracy(only[known], labels[known]), tuple(task_accuracy(scores, labels, task) for task in tasks)
    )


def joint_accuracy(scores: Tensor, labels: Tensor) -> float:
    """Return the percentage of images whose best class of all is right.

    Args:
        scores: [N, K].
        labels: int64 [N].
    """
    if scores.ndim != 2 or labels.shape != scores.shape[:1] or not len(labels):
        raise InputError(
            f"scores are {list(scores.shape)} and labels {list(labels.shape)}; [images, classes] and [images] with one "
            "image or more are expected"
        )
    return 100 * (scores.argmax(1) == labels).double().mean().item()


def task_accuracy(scores: Tensor, labels: Tensor, task: Sequence[int]) -> float:
    """Return the percentage of a task's images whose best class of this task is right.

    Args:
        scores: [N, K].
        labels: int64 [N].
        task: The classes of the task.
    """
    _check_tasks([task], scores.shape[-1])
    classes = torch.tensor(task, device=labels.device)
    own = torch.isin(labels, classes)
    return joint_accuracy(scores[own][:, classes], (labels[own, None] == classes).long().argmax(1))


def joined(outputs: Tensor | Sequence[Tensor], tasks: Tasks) -> Tensor:
    """Return one score for each class, of models or heads that know a task each.

    The scores are probabilities within a task, so that heads with larger logits are not preferred. The best class of
    all is then that of the head that is most certain.

    Args:
        outputs: Logits [N, K] of one model that has all classes, or a list with those of each head. Those of a head
            are [N, K], or have the columns of its task alone, in the order of ``tasks``.
        tasks: The classes of each task, disjoint, that are together 0 to K - 1.

    Returns:
        Probabilities [N, K]. Those of a task sum to 1.

    Raises:
        InputError: The tasks share a class or leave one out, or the outputs do not fit them.
    """
    count = sum(map(len, tasks))
    if sorted(k for task in tasks for k in task) != list(range(count)):
        raise InputError(f"tasks are {[list(task) for task in tasks]}; each class from 0 on in one task is expected")
    heads = [outputs] * len(tasks) if isinstance(outputs, Tensor) else list(outputs)
    if len(heads) != len(tasks):
        raise InputError(f"outputs are of {len(heads)} heads; one for each of the {len(tasks)} tasks is expected")
    parts = []
    for number, (head, task) in enumerate(zip(heads, tasks, strict=True)):
        if head.ndim != 2 or head.shape[1] not in (count, len(task)):
            raise InputError(
                f"outputs[{number}] is {list(head.shape)}; [images, {count}] or [images, {len(task)}] is expected"
            )
        parts.append((head[:, list(task)] if head.shape[1] == count else head).softmax(1))
    order = torch.tensor([k for task in tasks for k in task], device=parts[0].device)
    return torch.cat(parts, 1)[:, order.argsort()]


def class_scores(features: Tensor, classes: Tensor, scale: float = 100.0) -> Tensor:
    """Return logits of features by embeddings of classes, as those of a CLIP: [N, D] and [K, D] -> [N, K].

    Models that were trained towards the same embeddings share their outputs, so that all of them can be merged.

    Args:
        features: Outputs of a model, [N, D].
        classes: One embedding for each class, such as that of a text, [K, D].
        scale: What the cosines are multiplied by.
    """
    if features.ndim != 2 or classes.ndim != 2 or features.shape[1] != classes.shape[1]:
        raise InputError(
            f"features are {list(features.shape)} and classes {list(classes.shape)}; [images, size] and "
            "[classes, size] are expected"
        )
    return scale * F.normalize(features, dim=1) @ F.normalize(classes, dim=1).mT


@torch.no_grad()
def text_embeddings(model: str | nn.Module, texts: Sequence[str]) -> Tensor:
    """Return embeddings of texts by a model with a text tower, for `class_scores`: [K, D].

    Args:
        model: The name of a CLIP, such as "pe_micro_clip" or "pe_clip_base_16_224" of the package pe-encoder, which is
            created with its weights; or a module with ``tokenizer()`` and ``encode_text``.
        texts: The texts, such as "a photo of a cat".

    Raises:
        NotSupported: The model has no text tower.
    """
    clip: Any = create_model(model, pretrained=True).eval() if isinstance(model, str) else model
    if not (hasattr(clip, "encode_text") and hasattr(clip, "tokenizer")):
        name = repr(model) if isinstance(model, str) else type(model).__name__
        raise NotSupported(f"model {name} has no encode_text and tokenizer; a CLIP such as 'pe_micro_clip' is needed")
    ids = clip.tokenizer()(list(texts)).to(next(clip.parameters()).device)
    embeddings: Tensor = clip.encode_text(ids, normalize=True)
    return embeddings


@torch.no_grad()
def flops(model: nn.Module, example: Tensor) -> float:
    """Count the floating-point operations of a model for one image, by torch.utils.flop_counter.

    Those of convolutions and products of matrices are counted, two for each multiplication with its addition. Papers
    often say FLOPs for half of it.

    Args:
        model: The model, such as one of `zipit.merge` with a trunk and heads. It is run in eval mode.
        example: Images [B, ...] on the device of the model.
    """
    # The counter knows no formula for the attention of CPUs, so attention is computed by products of matrices.
    with in_eval_mode([model]), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(example)
    return counter.get_total_flops() / len(example)


def _check_tasks(tasks: Tasks, count: int) -> None:
    for task in tasks:
        if not task or not all(0 <= k < count for k in task):
            raise InputError(f"tasks have {list(task)}; one class or more from 0 to {count - 1} is expected")
