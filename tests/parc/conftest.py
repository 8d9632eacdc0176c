import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from plm_core import samples

GOLDENS = Path(__file__).parent / "goldens"


class Golden:
    """Recorded inputs and outputs of the original (NumPy), and the configuration of the recording."""

    def __init__(self, name):
        with safe_open(GOLDENS / f"{name}.safetensors", "np") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
            self.config = json.loads(file.metadata()["config"])
        for group in ("inputs", "outputs"):
            setattr(self, group, {k.removeprefix(f"{group}."): v for k, v in tensors.items() if k.startswith(group)})


@pytest.fixture(scope="session")
def golden():
    """Return a function that reads a recording, as ``golden("scores_n500_d64_c5").outputs["parc"]``, each file once."""
    cache = {}

    def get(name):
        if name not in cache:
            cache[name] = Golden(name)
        return cache[name]

    return get


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
