"""The writing of a detection dataset as a folder in COCO's format."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from PIL import Image

from hiera.coco.datasets import DetectionDataset
from plm_core.utils.files import atomic_path, write_text
from plm_core.utils.progress import track


def write_coco(data: DetectionDataset, folder: str | Path) -> Path:
    """Write a dataset as ``images/*.png`` and ``instances.json``, without augmentation.

    Each file is written completely or not at all. The instances file comes last, so if it exists, all images exist.

    Returns:
        The path of the instances file.
    """
    content = data.annotations()
    folder = Path(folder)
    for index, entry in enumerate(track(content["images"], "writing images", len(data))):
        entry["file_name"] = f"{index:012d}.png"
        with atomic_path(folder / "images" / entry["file_name"]) as part:
            pixels = (data.scene(index)[0] * 255).round().to(torch.uint8)
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(part, format="png")
    write_text(folder / "instances.json", json.dumps(content))
    return folder / "instances.json"
