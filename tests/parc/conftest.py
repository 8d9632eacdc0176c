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
