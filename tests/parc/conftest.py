from pathlib import Path

import numpy as np
import pytest

from plm_core import samples
from plm_core.testing import goldens_in


@pytest.fixture(scope="session")
def golden():
    """Return a function that reads a recording, as ``golden("scores_n500_d64_c5").outputs["parc"]``, each file once."""
    return goldens_in(Path(__file__).parent / "goldens", "numpy")


@pytest.fixture(scope="session")
def write_digits():
    """Return a function that writes handwritten digits as PNG files, with one folder per class."""

    def write(root, classes, per_class):
        images, labels = samples.digits("heldout")
        for digit in range(classes):
            (root / str(digit)).mkdir(parents=True)
            for i in np.flatnonzero(labels == digit)[:per_class]:
                images[i].save(root / str(digit) / f"{i}.png")
        return root

    return write


@pytest.fixture(scope="session")
def vit_folder(tmp_path_factory):
    """Return a folder with a micro classifier of transformers and its preprocessing."""
    import torch
    import transformers

    folder = tmp_path_factory.mktemp("vit")
    size = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.ViTConfig(**size, image_size=32, patch_size=8, num_labels=5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.ViTForImageClassification(config).save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder
