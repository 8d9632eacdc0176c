"""Goldens, and small models for the tests of the language model."""

from pathlib import Path

import pytest

from plm_core.testing.goldens import goldens_in


@pytest.fixture(scope="session")
def golden():
    return goldens_in(Path(__file__).parent / "goldens")
