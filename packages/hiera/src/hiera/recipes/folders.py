"""The trainings behind ``plm hiera``, from a folder of data to files of weights. They also run under torchrun."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torchvision.datasets import ImageFolder

from hiera import configs
from hiera.hieradet import HieraDet
from hiera.mae import MaskedAutoencoderHiera
from hiera.model import Hiera
from hiera.recipes import steps, tables
from plm_core import InputError, weights
from plm_core.hookspecs import IMAGENET_MEAN, IMAGENET_STD, VIDEO_MEAN, VIDEO_STD
from plm_core.training import TrainResult
from plm_core.training.finetuning import accuracy, eval_transform, finetune_transform
from plm_core.training.finetuning import finetune as finetune_classifier
from plm_core.training.overrides import choose, override
from plm_core.utils.images import open_image
from plm_core.video import VideoFolder, per_clip

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
    """Pretrain on a folder of class folders, and write ``mae.safetensors`` and ``encoder.safetensors``."""
    config = _begin(tables.PRETRAIN_VIDEO if video else tables.PRETRAIN_IMAGE, size, changes, options)
    model = MaskedAutoencoderHiera(**_autoencoder(size, video, abs_win), drop_path_rate=config.drop_path)
    preprocess = steps.pretrain_transform(model.input_size[-2:], config, *_statistics(video))
    result = steps.pretrain(model, _folder(data, model, preprocess), config, out=out, **options)
    if result.main:
        model = _whole(MaskedAutoencoderHiera(**_autoencoder(size, video, abs_win)), result)
        weights.save(model, out / "mae.safetensors")
        weights.save(model.plain_encoder(q_pool=model.steps), out / "encoder.safetensors")
    return _last(result)


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
    """Train a classifier on ``data/train``, from an encoder or from scratch, and score it on ``data/val``."""
    config = _begin(tables.FINETUNE_VIDEO if video else tables.FINETUNE_IMAGE, size, changes, options)
    keywords = {**_classifier(size, video, abs_win), "probabilities": False}
    classes = len(_folder(data / "train", Hiera(**keywords, device="meta"), None).classes)
    keywords["num_classes"] = classes
    model = Hiera(**keywords, drop_path_rate=config.drop_path, head_dropout=config.dropout)
    if encoder is not None:
        load_encoder(model, encoder)
    train_transform = finetune_transform(model.input_size[-2:], config, *_statistics(video))
    val_transform = eval_transform(model.input_size[-2:], *_statistics(video))
    train = _folder(data / "train", model, train_transform)
    val = _folder(data / "val", model, val_transform, training=False)
    _same(train.classes, val.classes)
    result = finetune_classifier(model, train, config, classes, out=out, **options)
    scores = _last(result)
    if result.main:
        model = _whole(Hiera(**keywords), result)
        weights.save(model, out / "model.safetensors")
        scores["val top-1 %"] = accuracy(model, val, num_workers=options.get("num_workers", 0))
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
    """Train a detector on ``data/train``, from an encoder or from scratch, and score it on ``data/val``.

    Both folders hold ``images/`` and ``instances.json``, as `hiera.coco.write_coco` writes them.
    """
    from hiera import coco
    from hiera.detection import detector

    config = _begin(tables.DETECT, size, changes, options)

    def build(drop_path: float = 0.0) -> Any:
        trunk = _trunk(size, drop_path_rate=drop_path)
        settings = configs.MICRO_DETECTOR if size == "micro" else {}
        return detector(trunk, classes, **{**settings, "cascade": config.cascade, "img_size": config.img_size})

    train, val = (
        coco.CocoDetection(data / split / "images", data / split / "instances.json") for split in ("train", "val")
    )
    _same(train.names.values(), val.names.values())
    train.transform = coco.LargeScaleJitter(config.img_size, config.scale)
    classes = len(train.names)
    model = build(config.drop_path)
    if encoder is not None:
        load_encoder(model.backbone.trunk, encoder)
    result = steps.detect(model, train, config, out=out, **options)
    scores = _last(result)
    if result.main:
        model = _whole(build(), result)
        weights.save(model, out / "model.safetensors")
        scores |= coco.evaluate(model, val, num_workers=options.get("num_workers", 0))
    return scores


def load_encoder(model: Any, file: Path) -> None:
    """Load a pretrained encoder into a Hiera or HieraDet. The model's own head, if it has one, stays untrained.

    Raises:
        InputError: The model is a HieraDet, and the file holds a Hiera of another size.
        WeightsError: The file cannot be read, or does not hold an encoder of this size.
    """
    mapped, _ = weights.to_native(model, weights.read(file))
    if isinstance(model, HieraDet) and "pos_embed_window" not in mapped:
        return model.load_hiera(mapped)
    own = {key: value for key, value in model.state_dict().items() if key.startswith("head.")}
    body = {key: value for key, value in mapped.items() if not key.startswith("head.")}
    weights.load(model, body | own)


def _begin(table: Mapping[str, Any], size: str, changes: Mapping[str, str], options: Mapping[str, Any]) -> Any:
    """Return the configuration of a size with its changes applied, and seed the initialisation of the model."""
    config = override(choose(table, size), changes)
    torch.manual_seed(options.get("seed", 0))
    return config


def _same(train: Iterable[str], val: Iterable[str]) -> None:
    """Check that the classes of both splits are the same, in the same order."""
    train, val = list(train), list(val)
    if train != val:
        unshared = sorted({*train} ^ {*val})
        names = ", ".join([*unshared[:4], "..."] if len(unshared) > 4 else unshared) or "all, in another order"
        raise InputError(f"data must have the same classes in train and val; not in both: {names}")


def _classifier(size: str, video: bool, abs_win: bool) -> Config:
    """Return the constructor keywords of a Hiera."""
    if size == "micro":
        config = {**(configs.MICRO_MOTIONS if video else configs.MICRO_SHAPES)}
    else:
        config = {**configs.IMAGE[size], **(configs.VIDEO if video else {})}
    return config | ({"abs_win_pos_embed": True} if abs_win else {})


def _autoencoder(size: str, video: bool, abs_win: bool) -> Config:
    """Return the constructor keywords of a MaskedAutoencoderHiera."""
    return _classifier(size, video, abs_win) | (configs.MICRO_MAE if size == "micro" else {})


def _trunk(size: str, **keywords: Any) -> HieraDet:
    """Build the trunk of a detector."""
    # SAM 2 has no base size. HieraDet's default windows and positions are those of base_plus, which is as deep as base.
    return HieraDet(**(configs.HIERADET if size in configs.HIERADET else configs.IMAGE)[size], **keywords)


def _statistics(video: bool) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and the standard deviation that inputs are normalised with."""
    return (VIDEO_MEAN, VIDEO_STD) if video else (IMAGENET_MEAN, IMAGENET_STD)


def _folder(root: Path, model: Hiera, preprocess: Any, training: bool = True) -> Any:
    """Open a folder of class folders of images or, when the model takes clips, of videos."""
    if len(model.input_size) == 3:
        clip_preprocess = preprocess and per_clip(preprocess)
        return VideoFolder(root, model.input_size[0], transform=clip_preprocess, training=training)
    try:
        return ImageFolder(root, preprocess, loader=_picture)
    except OSError as e:
        raise InputError(f"data {str(root)!r} is not a folder of class folders of images: {e}") from e


def _picture(path: str) -> Any:
    return open_image(path).convert("RGB")


def _whole(model: Any, result: TrainResult) -> Any:
    """Load the trained weights into a new model, since the trained one may be sharded. Use a GPU if there is one."""
    model.load_state_dict(result.state)
    return model.to(torch.accelerator.current_accelerator(check_available=True) or "cpu")


def _last(result: TrainResult) -> dict[str, float]:
    """Return the last logged loss, or nothing in a process other than the main one."""
    return {"training loss": result.history[-1]["loss"]} if result.main and result.history else {}
