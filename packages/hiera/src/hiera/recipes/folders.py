"""Trainings from a folder of data to files of weights, as ``plm hiera`` runs them, also under torchrun."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import default_loader

from hiera import configs
from hiera.hieradet import HieraDet
from hiera.mae import MaskedAutoencoderHiera
from hiera.model import Hiera
from hiera.recipes import steps, tables
from hiera.recipes.overrides import choose, override
from hiera.video import VideoFolder, per_clip
from plm_core import InputError, weights
from plm_core.hookspecs import IMAGENET_MEAN, IMAGENET_STD
from plm_core.training import TrainResult
from plm_core.training.finetuning import accuracy, eval_transform, finetune_transform
from plm_core.training.finetuning import finetune as finetune_classifier

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
    trained = steps.pretrain(model, _folder(data, model, preprocess), config, out=out, **options)
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
    """Train a classifier on ``data/train``, from an encoder or from scratch, and score it on ``data/val``."""
    config = _begin(tables.FINETUNE_VIDEO if video else tables.FINETUNE_IMAGE, size, changes, options)
    keywords = {**_classifier(size, video, abs_win), "probabilities": False}
    classes = len(_folder(data / "train", Hiera(**keywords, device="meta"), None).classes)
    keywords["num_classes"] = classes
    model = Hiera(**keywords, drop_path_rate=config.drop_path, head_dropout=config.dropout)
    if encoder is not None:
        load_encoder(model, encoder)
    augmented = finetune_transform(model.input_size[-2:], config, *_statistics(video))
    plain = eval_transform(model.input_size[-2:], *_statistics(video))
    train, val = _folder(data / "train", model, augmented), _folder(data / "val", model, plain, training=False)
    _same(train.classes, val.classes)
    trained = finetune_classifier(model, train, config, classes, out=out, **options)
    scores = _last(trained)
    if trained.main:
        model = _whole(Hiera(**keywords), trained)
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
    trained = steps.detect(model, train, config, out=out, **options)
    scores = _last(trained)
    if trained.main:
        model = _whole(build(), trained)
        weights.save(model, out / "model.safetensors")
        scores |= coco.evaluate(model, val, num_workers=options.get("num_workers", 0))
    return scores


def load_encoder(model: Any, file: Path) -> None:
    """Load a pretrained encoder into a Hiera or HieraDet; the model's own head, if it has one, stays untrained.

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
    """Return the configuration of a size with its changes, and seed the initialisation of the model."""
    config = override(choose(table, size), changes)
    torch.manual_seed(options.get("seed", 0))
    return config


def _same(train: Iterable[str], val: Iterable[str]) -> None:
    train, val = list(train), list(val)
    if train != val:
        apart = sorted({*train} ^ {*val})
        names = f"{', '.join(apart[:4])}{', ...' if len(apart) > 4 else ''}" if apart else "all, in another order"
        raise InputError(f"data must have the same classes in train and val; not in both: {names}")


def _classifier(size: str, video: bool, abs_win: bool) -> Config:
    """Return the keywords of a Hiera."""
    if size == "micro":
        config = {**(configs.MICRO_MOTIONS if video else configs.MICRO_SHAPES)}
    else:
        config = {**configs.IMAGE[size], **(configs.VIDEO if video else {})}
    return config | ({"abs_win_pos_embed": True} if abs_win else {})


def _autoencoder(size: str, video: bool, abs_win: bool) -> Config:
    """Return the keywords of a MaskedAutoencoderHiera."""
    return _classifier(size, video, abs_win) | (configs.MICRO_MAE if size == "micro" else {})


def _trunk(size: str, **keywords: Any) -> HieraDet:
    # SAM 2 has no base; HieraDet's default windows and positions are those of base_plus, which is as deep.
    return HieraDet(**(configs.HIERADET if size in configs.HIERADET else configs.IMAGE)[size], **keywords)


def _statistics(video: bool) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return (configs.VIDEO_MEAN, configs.VIDEO_STD) if video else (IMAGENET_MEAN, IMAGENET_STD)


def _folder(root: Path, model: Hiera, preprocess: Any, training: bool = True) -> Any:
    """Open a folder of class folders of images or, when the model takes clips, of videos."""
    if len(model.input_size) == 3:
        clipwise = preprocess and per_clip(preprocess)
        return VideoFolder(root, model.input_size[0], transform=clipwise, training=training)
    try:
        return ImageFolder(root, preprocess, loader=_picture)
    except OSError as e:
        raise InputError(f"data {str(root)!r} is not a folder of class folders of images: {e}") from e


def _picture(path: str) -> Any:
    try:
        return default_loader(path)
    except Exception as e:  # PIL's decoders raise nearly anything on a file that is cut or not what it says
        raise InputError(f"image {path!r} cannot be read: {e}") from e


def _whole(model: Any, trained: TrainResult) -> Any:
    """Load the trained weights into a new model (the trained one may be sharded), on a GPU if there is one."""
    model.load_state_dict(trained.state)
    return model.to(torch.accelerator.current_accelerator(check_available=True) or "cpu")


def _last(trained: TrainResult) -> dict[str, float]:
    """Return the last logged loss in the process that reports, else nothing."""
    return {"training loss": trained.history[-1]["loss"]} if trained.main and trained.history else {}
