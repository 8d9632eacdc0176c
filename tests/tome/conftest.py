from pathlib import Path

import pytest

from plm_core.testing import goldens_in


@pytest.fixture(scope="session")
def golden():
    return goldens_in(Path(__file__).parent / "goldens")
