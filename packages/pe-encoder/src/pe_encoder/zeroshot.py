"""Zero-shot classification by texts: the official protocol (arXiv 2504.13181, appendix; CLIP's before it).

Shapes: C classes, T texts of a class, N images or videos, E width of the embedding.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from pe_encoder.media import FRAMES, embed_data
from pe_encoder.prompts import Templates, templates_of
from plm_core import InputError
from plm_core.datasets import Dataset
from plm_core.utils.files import atomic_path, cache_dir
from plm_core.weights import fingerprint

SCALE = 100.0
"""The factor of the logits, a constant in the official protocol, and not what the model has learned."""


def classifier(text_embeddings: Tensor | Sequence[Tensor]) -> Tensor:
    """Make a linear classifier of the embeddings of texts.

    The embeddings of a class are normalised, averaged over its texts, and normalised again.

    Args:
        text_embeddings: [C, T, E], or one tensor [T, E] for each class if they have different numbers of texts.

    Returns:
        [E, C], with columns of length 1.

    Raises:
        InputError: The embeddings have another shape, a value is not finite, or a class has no text.
    """
    if isinstance(text_embeddings, Tensor):
        _check_embeddings("text_embeddings", text_embeddings, 3, "[classes, texts, width]")
    for texts in text_embeddings:
        _check_embeddings("a class of text_embeddings", texts, 2, "[texts, width]")
    if isinstance(text_embeddings, Tensor):
        means = F.normalize(text_embeddings, dim=-1).mean(1)
    else:
        means = torch.stack([F.normalize(texts, dim=-1).mean(0) for texts in text_embeddings])
    return F.normalize(means, dim=-1).T


@torch.no_grad()
def embed_classes(
    model: Any,
    names: Sequence[str],
    templates: Templates = "plain",
    *,
    cache: bool = False,
    batch_size: int = 4096,
    advance: Callable[[int], object] = lambda number: None,
) -> Tensor:
    """Make a classifier of names of classes, by all templates.

    Args:
        model: A CLIP.
        names: Names of the classes.
        templates: The name of a set of templates, a template, or several, see `pe_encoder.prompts`.
        cache: Whether the classifier is read from ``$PLM_CACHE/pe_encoder`` if it was made before by the same text
            tower of the same names and templates, and kept there otherwise.
        batch_size: Texts that are turned into ids at a time.
        advance: A function that is told the number of texts that are done, of names times templates.

    Returns:
        float32 [E, C] on the device of the model, as of `classifier`.

    Raises:
        InputError: ``names`` is one text, there is no name, or one is empty.
    """
    if isinstance(names, str):
        raise InputError(f"names is the text {names!r}; a sequence of names is expected")
    names = list(names)
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise InputError(f"names has {len(names)} entries; at least one is needed, and each has to be a text")
    prompts = templates_of(templates)
    path = _cached(model, names, prompts) if cache else None
    if path and path.is_file():
        advance(len(names) * len(prompts))
        return load_file(path)["classifier"].to(model.logit_scale.device)
    tokenize = model.tokenizer()
    means = torch.zeros(len(names), model.num_features, device=model.logit_scale.device)
    for template in prompts:  # the prompts of one template share their beginning
        for start in range(0, len(names), batch_size):
            part = names[start : start + batch_size]
            ids = tokenize([template.format(name) for name in part]).to(means.device)
            means[start : start + len(part)] += F.normalize(model.encode_text(ids).float(), dim=-1) / len(prompts)
            advance(len(part))
    weight = F.normalize(means, dim=-1).T.contiguous()
    if path:
        with atomic_path(path) as beside:
            save_file({"classifier": weight.cpu()}, beside)
    return weight


def _cached(model: Any, names: Sequence[str], prompts: Sequence[str]) -> Path:
    """Return the file for the classifier of a text tower, names and templates."""
    facts = json.dumps([repr(model.text), fingerprint(model.text), model.vocabulary, list(names), list(prompts)])
    return cache_dir("pe_encoder") / f"{hashlib.sha256(facts.encode()).hexdigest()}.safetensors"


def logits(embeddings: Tensor, weight: Tensor) -> Tensor:
    """Return 100 times the cosines of images or videos [N, E] and classes [E, C]: [N, C]."""
    return SCALE * F.normalize(embeddings, dim=-1) @ weight


def scores(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Score a classification.

    Args:
        logits: [N, C].
        labels: The right classes, int64 [N].

    Returns:
        Shares from 0 to 1: ``acc1``, ``acc5`` (NaN for fewer than five classes) and ``mean_per_class_recall``, the mean
        over the classes that occur of the share of their members that are recognised.

    Raises:
        InputError: The shapes do not fit, a value is not finite, a label names no class, or there is nothing to score.
    """
    _check_embeddings("logits", logits, 2, "[samples, classes]")
    labels = torch.as_tensor(labels)
    if labels.shape != logits.shape[:1] or labels.is_floating_point():
        raise InputError(
            f"labels is {labels.dtype} {list(labels.shape)}; one class for each of {len(logits)} is expected"
        )
    classes = logits.shape[1]
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise InputError(f"labels lie from {int(labels.min())} to {int(labels.max())}; 0 to {classes - 1} is allowed")
    hits = logits.topk(min(5, classes), dim=1).indices == labels[:, None]
    first = hits[:, 0].double()
    members = torch.bincount(labels, minlength=classes)
    recognised = torch.zeros(classes, dtype=torch.float64, device=labels.device).index_add_(0, labels, first)
    return {
        "acc1": first.mean().item(),
        "acc5": hits.any(1).double().mean().item() if classes >= 5 else float("nan"),
        "mean_per_class_recall": (recognised / members)[members > 0].mean().item(),
    }


def evaluate(
    model: Any,
    data: Dataset,
    templates: Templates = "imagenet",
    *,
    names: Sequence[str] | None = None,
    frames: int = FRAMES,
    mode: str = "squash",
    cache: bool = False,
    **options: Any,
) -> dict[str, float]:
    """Classify labelled images or videos by the names of their classes, and score it as `scores` does.

    Args:
        model: A CLIP from `plm_core.create_model`, in eval mode.
        data: The images or videos, as from `plm_core.datasets.load_dataset`.
        templates: See `embed_classes`.
        names: Names of the classes; None for those of the data, with spaces for ``_`` and ``-``.
        frames: Frames per video.
        mode: ``squash`` or ``center``, see `pe_encoder.preprocess`.
        cache: See `embed_classes`.
        **options: ``batch_size``, ``num_workers``, ``dtype`` and ``progress`` of `pe_encoder.media.embed_data`.

    Raises:
        InputError: There are not as many names as classes, or an image or video cannot be read.
    """
    names = [re.sub(r"[_-]+", " ", name) for name in data.classes] if names is None else names
    if len(names) != len(data.classes):
        raise InputError(f"names has {len(names)} entries; the data have {len(data.classes)} classes")
    weight = embed_classes(model, names, templates, cache=cache).cpu()
    vectors = embed_data(model, data, frames=frames, mode=mode, **options)
    return scores(logits(vectors, weight), torch.from_numpy(data.labels))


def _check_embeddings(name: str, x: Tensor, ndim: int, expected: str) -> None:
    if not isinstance(x, Tensor) or x.ndim != ndim or not x.is_floating_point() or not x.numel():
        what = f"{x.dtype} {list(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
        raise InputError(f"{name} is {what}; floats {expected}, at least one, are expected")
    if not x.isfinite().all():
        raise InputError(f"{name} has values that are not finite")
