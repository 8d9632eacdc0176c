"""The examples in the docstrings of the public functions run, and show what they say."""

import doctest
import importlib

import numpy as np
import pytest

from plm_core import samples

MODULES = ("parc.benchmark.aggregation", "parc.catalog", "parc.ranking.run", "parc.sampling", "parc.scoring")


@pytest.fixture
def digits(tmp_path, monkeypatch):
    """Change into a folder that holds 100 handwritten digits as ``digits``, one folder per class."""
    images, labels = samples.digits("heldout")
    for digit in range(10):
        (tmp_path / "digits" / str(digit)).mkdir(parents=True)
        for i in np.flatnonzero(labels == digit)[:10]:
            images[i].save(tmp_path / "digits" / str(digit) / f"{i}.png")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.usefixtures("digits")
def test_examples(name):
    failed, attempted = doctest.testmod(importlib.import_module(name))
    assert attempted > 0
    assert failed == 0
