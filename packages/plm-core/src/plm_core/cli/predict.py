"""``plm predict``: classify images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from plm_core.cli.options import Json, Transforms
from plm_core.cli.table import show


def predict(
    model: Annotated[str, typer.Argument(help="Name of a model, with or without tag (see plm list --timm).")],
    images: Annotated[list[Path], typer.Argument(help="Image files to classify.")],
    top: Annotated[int, typer.Option("--top", min=1, help="Number of classes to show per image.")] = 5,
    transform: Transforms = None,
    as_json: Json = False,
) -> None:
    """Classify images with pretrained weights."""
    import torch

    from plm_core.models import create_model, transform_for
    from plm_core.transforms import apply_all
    from plm_core.utils.images import open_image
    from plm_core.utils.progress import track

    pictures = [open_image(path) for path in images]  # before the model, so that a bad path fails at once
    net = apply_all(create_model(model, pretrained=True).eval(), transform or [])
    preprocess, names = transform_for(net), _labels(net)
    rows = []
    with torch.inference_mode():
        for path, picture in track(list(zip(images, pictures, strict=True)), "images"):
            probabilities = net(preprocess(picture)[None]).softmax(-1)[0]
            values, classes = probabilities.topk(min(top, len(probabilities)))
            rows += [
                {"image": str(path), "class": c, "label": names(c), "probability": round(p, 4)}
                for p, c in zip(values.tolist(), classes.tolist(), strict=True)
            ]
    show(rows, as_json)


def _labels(net: Any) -> Any:
    """Return a function from class number to label. Without known labels it gives the number itself."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    own = net.pretrained_cfg.get("label_names")
    if own:
        return lambda c: own[c]
    subset = infer_imagenet_subset(net)
    return ImageNetInfo(subset).index_to_description if subset else str
