"""What the registry builds: models by name with timm's keywords, and models from the original's files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from gazelle.configs import RELEASES
from gazelle.decoder import Decoder
from gazelle.model import GazeLLE
from plm_core import InputError, create_model, weights
from plm_core.errors import WeightsError


def gaze_lle(
    backbone: str,
    img_size: int | tuple[int, int] = 448,
    num_classes: int = 0,
    backbone_options: dict[str, Any] | None = None,
    **options: Any,
) -> nn.Module:
    """Build a model from the keywords of a declaration and of ``create_model``.

    Args:
        backbone: The name of the backbone.
        img_size: Height and width of the images.
        num_classes: 0, since the outputs are no classes.
        backbone_options: Keywords of the backbone.
        **options: Keywords of `gazelle.GazeLLE`.

    Raises:
        InputError: ``num_classes`` is not 0, or the name has a source such as ``hf-hub:``.
    """
    if num_classes:
        raise InputError(f"num_classes is {num_classes}; a model of gaze has none")
    if not isinstance(backbone, str):
        raise InputError(f"backbone is a {type(backbone).__name__}; its name is expected, and gazelle.GazeLLE takes it")
    if ":" in backbone or "/" in backbone:  # a config.json must not make anything be fetched
        raise InputError(f"backbone is {backbone!r}; a name of the registry without a source is expected")
    size = (img_size, img_size) if isinstance(img_size, int) else img_size
    model: Any = GazeLLE(backbone, in_size=size, **{**(backbone_options or {}), **options})
    model.num_classes, model.num_features = 0, model.dim
    return model


def load_release(path: str | Path, name: str | None = None, pretrained_backbone: bool = True) -> GazeLLE:
    """Return a released model: the decoder of a file, on a DINOv2 with timm's weights from the Hugging Face Hub.

    Args:
        path: A released .pt file, which is read with ``weights_only=True``, or its tensors as .safetensors.
        name: The name of the model. None finds it by the file's name and, if it was renamed, by its tensors.
        pretrained_backbone: Whether the backbone gets its weights. Without them the model is of no use, but for tests.

    Raises:
        InputError: The name is of no model of gaze.
        WeightsError: The file cannot be read, or does not fit. The message lists what is missing and what is left over.
    """
    state = weights.read(path, allow_pickle=True)
    name = name or _name_of(Path(path), state)
    created = create_model(name)
    if not isinstance(created, GazeLLE):
        raise InputError(f"name is {name!r}, a {type(created).__name__}; the name of a model of gaze is expected")
    model: Any = created
    with torch.device("meta"):
        decoder = Decoder(
            model.backbone.width, tuple(model.pos_embed.shape[1:]), model.has_inout, model.dim, len(model.transformer)
        )
    native, report = weights.to_native(decoder, state)
    if not report.ok:
        raise WeightsError(report.message(str(path)))
    if pretrained_backbone:
        eyes = create_model(model.backbone.model.pretrained_cfg["architecture"], pretrained=True, num_classes=0)
        model.backbone.model.load_state_dict(eyes.state_dict())
    model.load_state_dict(native, strict=False)  # of the decoder nothing is missing, as the report says
    return model.eval()


def _name_of(path: Path, state: dict[str, Any]) -> str:
    for name, file in RELEASES.items():
        if path.stem == file.removesuffix(".pt"):
            return name
    linear = state.get("linear.weight")
    width = None if linear is None or linear.ndim < 2 else linear.shape[1]
    sizes = {768: "vitb14", 1024: "vitl14"}
    if width not in sizes:
        raise WeightsError(f"{str(path)!r} is no released decoder: linear.weight has not 768 or 1024 channels")
    return f"gazelle_dinov2_{sizes[width]}{'_inout' if 'inout_token.weight' in state else ''}"
