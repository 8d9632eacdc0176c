"""The models and images of ``plm merge``, by their names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from plm_core.datasets import Dataset, Pictures
from plm_core.datasets.splits import own_splits
from plm_core.errors import InputError, NotSupported
from plm_core.models import create_model, input_of, transform_for
from plm_core.prediction.files import Kind, find_files, select_files
from plm_core.utils.arguments import split_random
from plm_core.utils.progress import track


def read_images(source: str) -> tuple[Dataset, Dataset]:
    """Return the images to merge on and those to judge by, which have no classes in a folder that has none."""
    path = Path(source)
    files = [file for file in find_files([path]) if file.kind == Kind.IMAGE] if path.is_dir() else []
    if files and all(file.path.parent == path for file in files):
        paths = [file.path for file in select_files(files, Kind.IMAGE, "merge")]
        plain = Dataset(source, [file.name for file in paths], np.zeros(len(paths), np.int64), (), paths)
        return plain, plain
    train, val = own_splits(source, skip_unreadable=False)
    if train.kind != "images":
        raise InputError(f"data {source!r} holds {train.kind}; images are needed")
    return train, train if val is None else val


def create_models(names: Sequence[str], device: torch.device) -> list[nn.Module]:
    """Return the models, which must take the same images."""
    nets = []
    for name in names:
        plain, pretrained = split_random(name, None)
        nets.append(create_model(plain, pretrained=pretrained is None).eval().to(device))
    inputs = [input_of(net) for net in nets]
    for name, spec in zip(names, inputs, strict=True):
        if spec.frames is not None:
            raise NotSupported(f"model {name!r} takes videos; plm merge is for models of images, zipit.merge for both")
        odd = [field for field in ("size", "mean", "std") if getattr(spec, field) != getattr(inputs[0], field)]
        if odd:
            raise InputError(
                f"model {name!r} takes images with {odd[0]} {getattr(spec, odd[0])}, and model {names[0]!r} with "
                f"{getattr(inputs[0], odd[0])}; merged models see the same images"
            )
    return nets


def batches_for(net: nn.Module, data: Dataset, count: int, batch_size: int, seed: int) -> list[Tensor]:
    """Return images of the data, taken at random, in batches [B, C, H, W] on the device of a model."""
    chosen = np.random.default_rng(seed).permutation(len(data))[:count]
    loader: DataLoader[Any] = DataLoader(Pictures(data.take(chosen), transform_for(net)), batch_size)
    weight: Any = next(net.parameters())
    found = [x.to(weight) for x, _ in track(loader, "images", len(loader))]
    if len(found) > 1 and len(found[-1]) == 1:  # a batch norm needs two
        found[-2:] = [torch.cat(found[-2:])]
    return found
