import json
from pathlib import Path

import pytest

from plm_core.testing import goldens_in

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def golden():
    return goldens_in(HERE / "goldens")


@pytest.fixture(scope="session")
def manifest():
    return lambda name: json.loads((HERE / "manifests" / f"{name}.json").read_text())
