"""The trainings of `hiera.recipes` from a folder to weights: what ``plm hiera`` runs, also under torchrun."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import default_loader

from hiera import configs, recipes
from hiera.hieradet import HieraDet
from hiera.mae import MaskedAutoencoderHiera
from hiera.model import Hiera
from hiera.video import VideoFolder, per_clip
from plm_core import InputError, weights
from plm_core.hookspecs import IMAGENET_MEAN, IMAGENET_STD
from plm_core.training import Trained

Config = dict[str, Any]


def pretrain(
    data: Path,
    out: Path,
    size: str,
    changes: Mapping[str, str],
    *,
    video: bool = False,
    abs_win: bool = False,
    **options: Any,
) -> dict[str, float]:
    """Masked pretraining on a folder of class folders; writes ``mae.safetensors`` and ``encoder.safetensors``."""
    setting = changed(choose(recipes.PRETRAIN_VIDEO if video else recipes.PRETRAIN_IMAGE, size), changes)
    torch.manual_seed(options.get("seed", 0))
    model = MaskedAutoencoderHiera(**_autoencoder(size, video, abs_win), drop_path_rate=setting.drop_path)
    transform = recipes.pretrain_transform(model.input_size[-2:], setting, *_statistics(video))
    trained = recipes.pretrain(model, _folder(data, model, transform), setting, out=out, **options)
    if trained.main:
        model = _whole(MaskedAutoencoderHiera(**_autoencoder(size, video, abs_win)), trained)
        weights.save(model, out / "mae.safetensors")
        weights.save(model.plain_encoder(q_pool=model.steps), out / "encoder.safetensors")
    return _last(trained)


def finetune(
    data: Path,
    out: Path,
    size: str,
    changes: Mapping[str, str],
    *,
    video: bool = False,
    abs_win: bool = False,
    encoder: Path | None = None,
    **options: Any,
) -> dict[str, float]:
    """Train a classifier on ``data/train``, from an encoder or anew; scores ``data/val``."""
    setting = changed(choose(recipes.FINETUNE_VIDEO if video else recipes.FINETUNE_IMAGE, size), changes)
    torch.manual_seed(options.get("seed", 0))
    keywords = {**_classifier(size, video, abs_win), "probabilities": False}
    classes = len(_folder(data / "train", Hiera(**keywords, device="meta"), None).classes)
    keywords["num_classes"] = classes
    model = Hiera(**keywords, drop_path_rate=setting.drop_path, head_dropout=setting.dropout)
    if encoder is not None:
        load_encoder(model, encoder)
    augmented = recipes.finetune_transform(model.input_size[-2:], setting, *_statistics(video))
    plain = recipes.test_transform(model.input_size[-2:], *_statistics(video))
    train, val = _folder(data / "train", model, augmented), _folder(data / "val", model, plain, training=False)
    _same(train.classes, val.classes)
    trained = recipes.finetune(model, train, setting, classes, out=out, **options)
    scores = _last(trained)
    if trained.main:
        model = _whole(Hiera(**keywords), trained)
        weights.save(model, out / "model.safetensors")
        scores["val top-1 %"] = recipes.accuracy(model, val, workers=options.get("workers", 0))
    return scores


def detect(
    data: Path,
    out: Path,
    size: str,
    changes: Mapping[str, str],
    *,
    encoder: Path | None = None,
    **options: Any,
) -> dict[str, float]:
    """Train a detector on ``data/train``, from an encoder or anew; scores ``data/val``.

    Both are as `hiera.coco.write_coco` writes them: ``images/`` and ``instances.json``.
    """
    from hiera import coco
    from hiera.detection import detector

    setting = changed(choose(recipes.DETECT, size), changes)
    torch.manual_seed(options.get("seed", 0))

    def build(drop_path: float = 0.0) -> Any:
        trunk = _trunk(size, drop_path_rate=drop_path)
        settings = configs.MICRO_DETECTOR if size == "micro" else {}
        return detector(trunk, classes, **{**settings, "cascade": setting.cascade, "img_size": setting.img_size})

    train, val = (
        coco.CocoDetection(data / split / "images", data / split / "instances.json") for split in ("train", "val")
    )
    _same(train.names.values(), val.names.values())
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
        scores |= coco.evaluate(model, val, num_workers=options.get("workers", 0))
    return scores


def load_encoder(model: Any, file: Path) -> None:
    """Load a pretrained encoder into a Hiera or HieraDet; the model's own head, if it has one, stays new.

    Raises:
        InputError: A Hiera for a HieraDet is of another size.
        WeightsError: The file cannot be read, or is not of an encoder of this size.
    """
    mapped, _ = weights.to_native(model, weights.read(file))
    if isinstance(model, HieraDet) and "pos_embed_window" not in mapped:
        return model.load_hiera(mapped)
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
    types = get_type_hints(type(setting.recipe)) | get_type_hints(type(setting))
    for name, text in changes.items():
        if name not in own and name not in recipe:
            raise InputError(f"{name!r} cannot be set: {', '.join([*own, *recipe])} can")
        target = own if name in own else recipe
        target[name] = _parse(name, text, types[name], target[name])
    return replace(setting, recipe=type(setting.recipe)(**recipe), **own)


def _parse(name: str, text: str, hint: Any, old: Any) -> Any:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if not _fits(value, hint):
        expected = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
        raise InputError(f"{name} {text!r} is not allowed: {expected} is expected, as {old!r}")
    return value


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type, as the settings' fields have them; whole numbers are floats too."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return value in arguments
    if origin is UnionType:
        return any(_fits(value, argument) for argument in arguments)
    if origin is tuple:
        wanted = arguments[:1] * len(value) if isinstance(value, tuple) and arguments[-1] is ... else arguments
        return isinstance(value, tuple) and len(value) == len(wanted) and all(map(_fits, value, wanted))
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, int | float if hint is float else hint)


def _same(train: Iterable[str], val: Iterable[str]) -> None:
    train, val = list(train), list(val)
    if train != val:
        apart = sorted({*train} ^ {*val})
        names = f"{', '.join(apart[:4])}{', ...' if len(apart) > 4 else ''}" if apart else "all, in another order"
        raise InputError(f"data must have the same classes in train and val; not in both: {names}")


def _classifier(size: str, video: bool, abs_win: bool) -> Config:
    """Keywords of a Hiera."""
    if size == "micro":
        config = {**(configs.MICRO_MOTIONS if video else configs.MICRO_SHAPES)}
    else:
        config = {**configs.IMAGE[size], **(configs.VIDEO if video else {})}
    return config | ({"abs_win_pos_embed": True} if abs_win else {})


def _autoencoder(size: str, video: bool, abs_win: bool) -> Config:
    """Keywords of a MaskedAutoencoderHiera."""
    return _classifier(size, video, abs_win) | (configs.MICRO_MAE if size == "micro" else {})


def _trunk(size: str, **keywords: Any) -> HieraDet:
    # SAM 2 has no base: HieraDet's own windows and positions are base_plus's, which is as deep
    return HieraDet(**(configs.HIERADET if size in configs.HIERADET else configs.IMAGE)[size], **keywords)


def _statistics(video: bool) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return (configs.VIDEO_MEAN, configs.VIDEO_STD) if video else (IMAGENET_MEAN, IMAGENET_STD)


def _folder(root: Path, model: Hiera, transform: Any, training: bool = True) -> Any:
    """A folder of class folders, of images or, when the model eats clips, of videos."""
    if len(model.input_size) == 3:
        clip = transform and per_clip(transform)
        return VideoFolder(root, model.input_size[0], transform=clip, training=training)
    try:
        return ImageFolder(root, transform, loader=_picture)
    except OSError as e:
        raise InputError(f"data {str(root)!r} is not a folder of class folders of images: {e}") from e


def _picture(path: str) -> Any:
    try:
        return default_loader(path)
    except Exception as e:  # PIL's decoders raise nearly anything on a file that is cut or not what it says
        raise InputError(f"image {path!r} cannot be read: {e}") from e


def _whole(model: Any, trained: Trained) -> Any:
    """A fresh model with the trained weights (the trained one may be sharded), on a GPU if there is one."""
    model.load_state_dict(trained.state)
    return model.to(torch.accelerator.current_accelerator(check_available=True) or "cpu")


def _last(trained: Trained) -> dict[str, float]:
    """The last logged loss, of the process that reports."""
    return {"training loss": trained.history[-1]["loss"]} if trained.main and trained.history else {}
