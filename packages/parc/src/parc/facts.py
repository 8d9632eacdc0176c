"""Facts about a model that need no look at the data: size, depth, training images, ImageNet accuracy.

A ranking by such a fact alone often beats a score, so the facts can stand in every ranking as methods of their own.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plm_core.errors import InputError, NotSupported

if TYPE_CHECKING:
    from torch import nn

FACT_METHODS = ("params", "layers", "imagenet-top1", "heuristic")

LAYERS = {"resnet50": 50, "resnet18": 18, "googlenet": 22, "alexnet": 8, "resnet101": 101}
"""Depth of the architectures of the paper's benchmark, as its heuristics use it."""

TORCHVISION = "torchvision:"
"""Beginning of the names of torchvision's models."""

TOP1 = "imagenet-1k top-1 %"
"""Beginning, in lower case, of the names under which plug-ins declare an ImageNet accuracy in `Pretrained.metrics`."""

# Families whose names give the number of weighted layers on the longest path, as resnet50 and vgg16 do.
_DEPTH = re.compile(
    r"(?:wide_|legacy_|bat_|ese_|eca_|nf_|lambda_|eca|se|sk|gc|cs|csp|lam)*"
    r"(?:resnet|resnext|res2net|res2next|resnest|darknet|botnet|botnext|halonet|halonext|halobotnet)"
    r"(?:v2_|rs|aa|blur)?(\d+)"
    r"|(?:densenet|densenetblur|vgg|legacy_senet|senet|dpn|dla|vovnet|ese_vovnet|eca_vovnet)(\d+)"
)
# Number of images in the datasets that parts of the tags of timm and torchvision name. These are the real sizes. The
# paper's own table counts ImageNet as 150 000 (parc.benchmark.oracle.IMAGES), which only shifts the heuristic.
_IMAGES = {
    "in1k": 1_281_167,
    "imagenet1k": 1_281_167,
    "in12k": 11_821_000,
    "in21k": 14_197_122,
    "in22k": 14_197_122,
    "openai": 400_000_000,
    "laion400m": 400_000_000,
    "laion2b": 2_320_000_000,
    "swag": 3_600_000_000,
}


@dataclass(frozen=True)
class Facts:
    """Facts about a model.

    Attributes:
        params: Number of parameters, including the head.
        layers: Depth; see `layers_of`. None if no layer has weights.
        imagenet_top1: Accuracy on ImageNet-1k in percent, if known.
        source: Where depth and accuracy come from, in words.
        images: Number of images that the model was trained on, if its tag names a dataset.
    """

    params: int
    layers: int | None
    imagenet_top1: float | None
    source: str
    images: int | None = None


def facts_of(model: str | nn.Module, name: str | None = None, imagenet_csv: str | Path | None = None) -> Facts:
    """Return the facts about a model. No weights are loaded and no forward pass is run.

    Models of plm-core's plug-ins declare their ImageNet accuracy, and torchvision reports that of its weights. For
    timm's models, download timm's results-imagenet.csv and pass its path, since timm ships no table of results. A name
    without a tag stands for the model with its default weights.

    Args:
        model: A model, or a name as in `plm_core.create_model`, which is then built on the meta device.
        name: The name of a model that is passed as an object. Without it the depth is counted and the accuracy unknown.
        imagenet_csv: Path of a file with the columns ``model`` and ``top1``.

    Raises:
        UnknownName: There is no such model.
        InputError: The csv file cannot be read or lacks its columns.
    """
    given = model if isinstance(model, str) else name
    known_name = given if given and says_something(given) else None
    module = _skeleton(model) if isinstance(model, str) else model
    layers, how = layers_of(module, known_name)
    top1, where = imagenet_top1(known_name, imagenet_csv) if known_name else (None, "")
    source = f"layers {how}" + (f"; ImageNet top-1 of {where}" if where else "")
    params = sum(p.numel() for p in module.parameters())
    return Facts(params, layers, top1, source, training_images(known_name) if known_name else None)


def says_something(name: str) -> bool:
    """Return whether a name tells which model it is. That of a folder does not, nor one that anybody may give."""
    return not name.startswith(("local-dir:", "transformers:"))


def layers_of(model: nn.Module, name: str | None = None) -> tuple[int | None, str]:
    """Return the depth of a model, and how it was determined.

    If the name gives the depth (resnet50: 50 weighted layers on the longest path), it is used. Otherwise the
    convolution and linear modules are counted. The count includes modules beside the longest path (downsampling,
    gates), so it is larger than a depth by name, and the two compare only roughly.
    """
    architecture = _short_name(name).partition(".")[0] if name else ""
    if architecture in LAYERS:
        return LAYERS[architecture], "by name"
    if match := _DEPTH.match(architecture):
        return int(match[1] or match[2]), "by name"
    from torch.nn import Linear
    from torch.nn.modules.conv import _ConvNd

    count = sum(isinstance(module, (_ConvNd, Linear)) for module in model.modules())
    return count or None, "counted as convolution and linear modules"


def fact_score(method: str, facts: Facts, target_images: int | None = None) -> float:
    """Turn a fact into a score; higher is better.

    Args:
        method: "params" (the logarithm of their number), "layers", "imagenet-top1", or "heuristic" (Eq. 4 of the paper:
            layers + ln(images of the training set + images of the target)).
        facts: The facts about the model.
        target_images: Number of images in the whole target dataset; needed for "heuristic".

    Raises:
        InputError: The method is not one of `FACT_METHODS`.
        NotSupported: The fact that the method needs is unknown.
    """
    if method not in FACT_METHODS:
        raise InputError(f"method is {method!r}; {', '.join(FACT_METHODS)} are allowed")
    if method == "params":
        if facts.params < 1:
            raise NotSupported("params: the model has no parameters")
        return math.log(facts.params)
    if method == "imagenet-top1":
        if facts.imagenet_top1 is None:
            raise NotSupported("imagenet-top1 is not known; for timm's models give its results-imagenet.csv")
        return facts.imagenet_top1
    if facts.layers is None:
        raise NotSupported(f"{method}: the model has no convolution or linear layer")
    if method == "layers":
        return float(facts.layers)
    if facts.images is None or not target_images:
        raise NotSupported(
            "heuristic: the number of images that the model was trained on, or of the target, is unknown"
        )
    return facts.layers + math.log(facts.images + target_images)


def read_imagenet_csv(path: str | Path) -> Mapping[str, float]:
    """Read the top-1 accuracy in percent by model name from a file like timm's results-imagenet.csv.

    Raises:
        InputError: The file cannot be read, lacks the columns model and top1, or has a top1 that is no percentage.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise InputError(f"imagenet_csv {str(path)!r} cannot be read: {e}") from e
    if not rows or not {"model", "top1"} <= set(rows[0]):
        raise InputError(
            f"imagenet_csv {str(path)!r} has columns {', '.join(rows[0]) if rows else 'none'}; needs model, top1"
        )
    accuracies: dict[str, float] = {}
    for row in rows:
        try:
            value = float(row["top1"])
        except (TypeError, ValueError):
            value = math.nan
        if not 0 <= value <= 100:
            raise InputError(
                f"imagenet_csv {str(path)!r} has top1 {row['top1']!r} for {row['model']}; a percentage is needed"
            )
        accuracies[row["model"]] = value
    return accuracies


def imagenet_top1(name: str, imagenet_csv: str | Path | None) -> tuple[float | None, str]:
    """Return the ImageNet-1k accuracy of a model in percent and its source, or None and an empty text."""
    if name.startswith(TORCHVISION):
        from plm_core.sources.torchvision import imagenet_top1 as reported_top1

        reported = reported_top1(name.removeprefix(TORCHVISION))
        return reported, "" if reported is None else "torchvision's weights"
    full_name = _full_name(name)
    if imagenet_csv is not None and full_name in (accuracies := read_imagenet_csv(imagenet_csv)):
        return accuracies[full_name], f"{Path(imagenet_csv).name} ({full_name})"
    if (declared := _declared_top1(full_name)) is not None:
        return declared, f"the declaration of {full_name}"
    return None, ""


def training_images(name: str) -> int | None:
    """Return the number of images in the largest dataset that the tag names, or None. Pretraining uses the largest."""
    tag = _full_name(name).partition(".")[2].lower()
    return max((_IMAGES[part] for part in re.split(r"[_-]", tag) if part in _IMAGES), default=None)


def _skeleton(name: str) -> nn.Module:
    """Build the model without memory for its weights, or with memory if its constructor computes with them."""
    import torch

    from plm_core.errors import PlmError
    from plm_core.models import create_model

    try:
        with torch.device("meta"):
            return create_model(name)
    except PlmError:
        raise
    except (RuntimeError, NotImplementedError):  # the constructor reads values, which the meta device does not have
        return create_model(name)


def _short_name(name: str) -> str:
    """Return a name without the source, organisation and revision that it has on the Hugging Face Hub."""
    return re.split(r"[/:]", name)[-1].partition("@")[0]


def _full_name(name: str) -> str:
    """Return the short name with its tag, or with the default tag if it has none."""
    if name.startswith(TORCHVISION):
        from plm_core.sources.torchvision import weights_entry

        architecture, _, tag = name.removeprefix(TORCHVISION).partition(".")
        return f"{architecture}.{weights_entry(architecture, tag).name}"
    from timm.models import get_pretrained_cfg, is_model

    short = _short_name(name)
    if "." in short or not is_model(short):
        return short
    config: Any = get_pretrained_cfg(short)
    return f"{short}.{config.tag}" if config is not None and config.tag else short


def _declared_top1(full_name: str) -> float | None:
    from plm_core.hookspecs import Model
    from plm_core.registry import registry

    architecture, _, tag = full_name.partition(".")
    entry = registry().all(Model).get(architecture)
    weights = [weights for weights in entry.declaration.pretrained if weights.tag == tag] if entry else []
    metrics = weights[0].metrics if weights else {}
    return next((value for name, value in metrics.items() if name.lower().startswith(TOP1)), None)
