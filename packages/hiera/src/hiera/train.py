"""The trainings of `hiera.recipes` from a folder to weights: what ``plm hiera`` runs, also under torchrun."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torchvision.datasets import ImageFolder

from hiera import configs, recipes
from hiera.mae import MaskedAutoencoderHiera
from hiera.model import Hiera
from hiera.video import MEAN, STD, VideoFolder, per_clip
from plm_core import InputError, weights
from plm_core.hookspecs import IMAGENET_MEAN, IMAGENET_STD
from plm_core.training import Trained

Config = dict[str, Any]


def pretrain(
    data: Path, out: Path, size: str, changes: Mapping[str, str], *, video: bool = False, config: Config, **options: Any
) -> dict[str, float]:
    """Masked pretraining on a folder of class folders; writes ``mae.safetensors`` and ``encoder.safetensors``."""
    setting = changed(choose(recipes.PRETRAIN_VIDEO if video else recipes.PRETRAIN_IMAGE, size), changes)
    torch.manual_seed(options["seed"])
    model = MaskedAutoencoderHiera(**_trunk(size, video), drop_path_rate=setting.drop_path, **config)
    transform = recipes.pretrain_transform(model.input_size[-2:], setting, *_statistics(video))
    trained = recipes.pretrain(model, _folder(data, model, transform), setting, out=out, **options)
    if trained.main:
        model = _whole(MaskedAutoencoderHiera(**_trunk(size, video), **config), trained)
        weights.save(model, out / "mae.safetensors")
        weights.save(model.plain_encoder(), out / "encoder.safetensors")
    return _last(trained)


def finetune(
    data: Path,
    out: Path,
    size: str,
    changes: Mapping[str, str],
    *,
    video: bool = False,
    config: Config,
    encoder: Path | None = None,
    **options: Any,
) -> dict[str, float]:
    """Train a classifier on ``data/train``, from an encoder or anew; scores ``data/val``."""
    setting = changed(choose(recipes.FINETUNE_VIDEO if video else recipes.FINETUNE_IMAGE, size), changes)
    torch.manual_seed(options["seed"])
    keywords = {**_trunk(size, video), "probabilities": False, **config}
    classes = len(_folder(data / "train", Hiera(**keywords, device="meta"), None).classes)
    keywords["num_classes"] = classes
    model = Hiera(**keywords, drop_path_rate=setting.drop_path, head_dropout=setting.dropout)
    if encoder is not None:
        load_encoder(model, encoder)
    augmented = recipes.finetune_transform(model.input_size[-2:], setting, *_statistics(video))
    plain = recipes.test_transform(model.input_size[-2:], *_statistics(video))
    train, val = _folder(data / "train", model, augmented), _folder(data / "val", model, plain, training=False)
    if train.classes != val.classes:
        raise InputError(f"data has classes {train.classes} in train and {val.classes} in val; they must be the same")
    trained = recipes.finetune(model, train, setting, classes, out=out, **options)
    scores = _last(trained)
    if trained.main:
        model = _whole(Hiera(**keywords), trained)
        weights.save(model, out / "model.safetensors")
        scores["val top-1 %"] = recipes.accuracy(model, val)
    return scores


def detect(
    data: Path,
    out: Path,
    size: str,
    changes: Mapping[str, str],
    *,
    config: Config,
    encoder: Path | None = None,
    **options: Any,
) -> dict[str, float]:
    """Train a detector on ``data/train`` in COCO's format; writes ``model.safetensors``, scores ``data/val``."""
    from hiera import coco
    from hiera.detection import detector
    from hiera.hieradet import HieraDet

    setting = changed(choose(recipes.DETECT, size), changes)
    torch.manual_seed(options["seed"])

    def build(drop_path: float = 0.0) -> Any:
        trunk = HieraDet(**configs.HIERADET[size], drop_path_rate=drop_path)
        return detector(trunk, classes, cascade=setting.cascade, img_size=setting.img_size, **config)

    train, val = (coco.CocoDetection(data / split, data / f"{split}.json") for split in ("train", "val"))
    train.transform = coco.LargeScaleJitter(setting.img_size, setting.scale)
    classes = len(train.names)
    model = build(setting.drop_path)
    if encoder is not None:
        load_encoder(model.backbone.trunk, encoder)
    trained = recipes.detect(model, train, setting, out=out, **options)
    scores = _last(trained)
    if trained.main:
        model = _whole(build(), trained)
        weights.save(model, out / "model.safetensors")
        scores |= coco.evaluate(model, val)
    return scores


def load_encoder(model: Any, file: Path) -> None:
    """Load a pretrained encoder into a Hiera or HieraDet; the model's own head, if it has one, stays new.

    Raises:
        WeightsError: The file cannot be read, or is not of an encoder of this size.
    """
    mapped, _ = weights.to_native(model, weights.read(file))
    own = {key: value for key, value in model.state_dict().items() if key.startswith("head.")}
    body = {key: value for key, value in mapped.items() if not key.startswith("head.")}
    weights.load(model, body | own)


def choose(table: Mapping[str, Any], size: str) -> Any:
    """The setting of a size."""
    if size not in table:
        raise InputError(f"size {size!r} is not allowed here: {', '.join(table)} are")
    return table[size]


def changed(setting: Any, changes: Mapping[str, str]) -> Any:
    """A setting with fields of its own or of its recipe replaced; values are as in Python.

    Raises:
        InputError: No such field, or a value of another type.
    """
    own, recipe = ({f.name: getattr(part, f.name) for f in fields(part)} for part in (setting, setting.recipe))
    del own["recipe"]
    for name, text in changes.items():
        if name not in own and name not in recipe:
            raise InputError(f"{name!r} cannot be set: {', '.join([*own, *recipe])} can")
        target = own if name in own else recipe
        target[name] = _parse(name, text, target[name])
    return replace(setting, recipe=type(setting.recipe)(**recipe), **own)


def _parse(name: str, text: str, old: Any) -> Any:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    number = isinstance(value, int | float) and isinstance(old, int | float) and not isinstance(value, bool)
    if not (number or value is None or old is None or type(value) is type(old)):
        raise InputError(f"{name} {text!r} is not allowed: {type(old).__name__} is expected, as {old!r}")
    return value


def _trunk(size: str, video: bool) -> Config:
    if size == "micro":
        return dict(configs.MICRO_MOTIONS if video else configs.MICRO_SHAPES)
    return {**configs.IMAGE[size], **(configs.VIDEO if video else {})}


def _statistics(video: bool) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return (MEAN, STD) if video else (IMAGENET_MEAN, IMAGENET_STD)


def _folder(root: Path, model: Hiera, transform: Any, training: bool = True) -> Any:
    """A folder of class folders, of images or, when the model eats clips, of videos."""
    if len(model.input_size) == 3:
        clip = transform and per_clip(transform)
        return VideoFolder(root, model.input_size[0], transform=clip, training=training)
    try:
        return ImageFolder(root, transform)
    except FileNotFoundError as e:
        raise InputError(f"data {str(root)!r} is not a folder of class folders of images: {e}") from e


def _whole(model: Any, trained: Trained) -> Any:
    """A fresh model with the trained weights: the one that was trained may be sharded, or on another device."""
    model.load_state_dict(trained.state)
    return model


def _last(trained: Trained) -> dict[str, float]:
    return {"training loss": trained.history[-1]["loss"]} if trained.history else {}
