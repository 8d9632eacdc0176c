"""What is known of a model without looking at the data: size, depth, training images, ImageNet accuracy.

Rankings by such facts alone often beat scores, so they stand beside every ranking.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parc.benchmark.oracle import LAYERS
from plm_core.errors import InputError, NotSupported

if TYPE_CHECKING:
    from torch import nn

FACT_METHODS = ("params", "layers", "imagenet-top1", "heuristic")
TOP1 = "imagenet-1k top-1 %"  # how the plug-ins' entries in Pretrained.metrics begin, in lower case

# Families whose names give the number of weighted layers on the longest path, as resnet50 and vgg16 do.
_DEPTH = re.compile(
    r"(?:wide_|legacy_|bat_|ese_|eca_|nf_|lambda_|eca|se|sk|gc|cs|csp|lam)*"
    r"(?:resnet|resnext|res2net|res2next|resnest|darknet|botnet|botnext|halonet|halonext|halobotnet)"
    r"(?:v2_|rs|aa|blur)?(\d+)"
    r"|(?:densenet|densenetblur|vgg|legacy_senet|senet|dpn|dla|vovnet|ese_vovnet|eca_vovnet)(\d+)"
)
# Images of the sets that the parts of timm's tags name. They are real sizes; the paper's own table counts ImageNet as
# 150 000 (parc.benchmark.oracle.IMAGES), which only shifts the heuristic.
_IMAGES = {
    "in1k": 1_281_167,
    "in12k": 11_821_000,
    "in21k": 14_197_122,
    "in22k": 14_197_122,
    "openai": 400_000_000,
    "laion400m": 400_000_000,
    "laion2b": 2_320_000_000,
}


@dataclass(frozen=True)
class Facts:
    """Static facts of a model.

    Attributes:
        params: Number of parameters, with its head.
        layers: Depth; see `layers_of`. None when it has no layer with weights.
        imagenet_top1: Accuracy on ImageNet-1k in percent, when something says so.
        source: Where depth and accuracy come from, in words.
        images: Number of images that it was trained on, when its tag says so.
    """

    params: int
    layers: int | None
    imagenet_top1: float | None
    source: str
    images: int | None = None


def facts_of(model: str | nn.Module, name: str | None = None, imagenet_csv: str | Path | None = None) -> Facts:
    """Static facts of a timm or hub model; no weights are loaded and nothing is computed.

    ImageNet accuracy is what the plug-in declares of the hub's own models. timm ships no table of results: download
    its results-imagenet.csv and name it.

    A name without a tag stands for the model with the weights of its default tag.

    Args:
        model: A name as in ``plm_core.create_model``, built on the meta device, or a model.
        name: The model's name, when ``model`` is none; without it depth is counted and accuracy unknown.
        imagenet_csv: A file with the columns ``model`` and ``top1``, as timm's results-imagenet.csv.

    Raises:
        UnknownName: No such model.
        InputError: The csv cannot be read or lacks its columns.
    """
    known = model if isinstance(model, str) else name
    if known and known.startswith("local-dir:"):
        known = None  # the name of a folder says nothing
    net = _skeleton(model) if isinstance(model, str) else model
    layers, how = layers_of(net, known)
    top1, where = imagenet_top1(known, imagenet_csv) if known else (None, "")
    said = f"layers {how}" + (f"; ImageNet top-1 of {where}" if where else "")
    params = sum(p.numel() for p in net.parameters())
    return Facts(params, layers, top1, said, training_images(known) if known else None)


def layers_of(model: nn.Module, name: str | None = None) -> tuple[int | None, str]:
    """Depth of a model, and how it was found.

    By name where the name says it (resnet50: 50 weighted layers on the longest path), else the number of convolution
    and linear modules. The count takes in what lies beside the longest path (downsampling, gates), so it is larger than
    a depth by name: a counted and a named depth compare only roughly.
    """
    architecture = _short(name).partition(".")[0] if name else ""
    if architecture in LAYERS:
        return LAYERS[architecture], "by name"
    if found := _DEPTH.match(architecture):
        return int(found[1] or found[2]), "by name"
    from torch.nn import Linear
    from torch.nn.modules.conv import _ConvNd

    count = sum(isinstance(module, (_ConvNd, Linear)) for module in model.modules())
    return count or None, "counted as convolution and linear modules"


def fact_score(method: str, facts: Facts, target_images: int | None = None) -> float:
    """A static baseline as a score, higher is better.

    Args:
        method: One of `FACT_METHODS`: "params" (ln of their number), "layers", "imagenet-top1", or "heuristic" (paper
            Eq. 4: layers + ln(images trained on + images of the target)).
        facts: Of the model.
        target_images: Size of the whole target dataset; for "heuristic".

    Raises:
        InputError: Another method.
        NotSupported: The fact that it takes is not known.
    """
    if method not in FACT_METHODS:
        raise InputError(f"method is {method!r}; {', '.join(FACT_METHODS)} are the static ones")
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
    """Top-1 accuracy in percent by model name, of a file in the format of timm's results-imagenet.csv.

    Raises:
        InputError: It cannot be read, or lacks the columns model and top1, or a top1 is no percentage.
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
    out: dict[str, float] = {}
    for row in rows:
        try:
            value = float(row["top1"])
        except (TypeError, ValueError):
            value = math.nan
        if not 0 <= value <= 100:
            raise InputError(
                f"imagenet_csv {str(path)!r} has top1 {row['top1']!r} for {row['model']}; a percentage is needed"
            )
        out[row["model"]] = value
    return out


def _skeleton(name: str) -> nn.Module:
    """The model without memory for its weights; with it where a constructor computes with them."""
    import torch

    from plm_core.errors import PlmError
    from plm_core.models import create_model

    try:
        with torch.device("meta"):
            return create_model(name)
    except PlmError:
        raise
    except (RuntimeError, NotImplementedError):  # reads values that the meta device does not have
        return create_model(name)


def _short(name: str) -> str:
    """Without the source, organisation and revision of a name on the Hugging Face Hub."""
    return re.split(r"[/:]", name)[-1].partition("@")[0]


def _full_name(name: str) -> str:
    """Short, and with the default tag of a timm or hub name that has none."""
    from timm.models import get_pretrained_cfg, is_model

    short = _short(name)
    if "." in short or not is_model(short):
        return short
    config: Any = get_pretrained_cfg(short)
    return f"{short}.{config.tag}" if config is not None and config.tag else short


def imagenet_top1(name: str, imagenet_csv: str | Path | None) -> tuple[float | None, str]:
    """Return the ImageNet-1k accuracy of a model in percent, and where it was found."""
    full = _full_name(name)
    if imagenet_csv is not None and full in (table := read_imagenet_csv(imagenet_csv)):
        return table[full], f"{Path(imagenet_csv).name} ({full})"
    if (declared := _declared_top1(full)) is not None:
        return declared, f"the declaration of {full}"
    return None, ""


def _declared_top1(full: str) -> float | None:
    from plm_core.hookspecs import Model
    from plm_core.registry import registry

    architecture, _, tag = full.partition(".")
    entry = registry().all(Model).get(architecture)
    weights = [weights for weights in entry.declaration.pretrained if weights.tag == tag] if entry else []
    metrics = weights[0].metrics if weights else {}
    return next((value for name, value in metrics.items() if name.lower().startswith(TOP1)), None)


def training_images(name: str) -> int | None:
    """The largest set that the tag names, since a model is pretrained on the largest."""
    tag = _full_name(name).partition(".")[2]
    return max((_IMAGES[part] for part in re.split(r"[_-]", tag) if part in _IMAGES), default=None)
