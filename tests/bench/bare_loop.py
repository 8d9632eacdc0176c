"""The loop over a folder of images that anyone would write with timm, and a folder of photographs for it."""

from pathlib import Path

import numpy as np
import timm
import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from plm_core import samples

WIDTH, HEIGHT = 320, 240


def write_photographs(root: Path, count: int) -> None:
    """Write crops of scikit-learn's two photographs as JPEG files, in two folders."""
    rng = np.random.default_rng(0)
    for name in samples.PHOTOS:
        (root / name).mkdir()
        photo = samples.photo(name)
        for i in range(count // 2):
            x, y = rng.integers(0, photo.width - WIDTH), rng.integers(0, photo.height - HEIGHT)
            photo.crop((x, y, x + WIDTH, y + HEIGHT)).save(root / name / f"{i:04}.jpg", quality=90)


@torch.inference_mode()
def bare_loop(
    model: torch.nn.Module, root: Path, batch_size: int, num_workers: int, device: torch.device
) -> torch.Tensor:
    """Return the outputs of a model for the images of a folder, [N, D] on the CPU."""
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    images = ImageFolder(root, transform)
    loader = DataLoader(images, batch_size, num_workers=num_workers, pin_memory=device.type == "cuda")
    return torch.cat([model(x.to(device, non_blocking=True)) for x, _ in loader]).cpu()
