"""The examples in the docstrings of the public functions run, with the output that they show."""

import doctest
import importlib

import pytest

MODULES = (
    "parc.benchmark.aggregation",
    "parc.catalog",
    "parc.probing.run",
    "parc.ranking.run",
    "parc.sampling",
    "parc.scoring",
)


@pytest.fixture
def digits(tmp_path, monkeypatch, write_digits):
    """Change into a folder that holds 100 handwritten digits as ``digits``."""
    write_digits(tmp_path / "digits", classes=10, per_class=10)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.usefixtures("digits")
def test_examples(name):
    failed, attempted = doctest.testmod(importlib.import_module(name))
    assert attempted > 0
    assert failed == 0
