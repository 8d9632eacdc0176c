"""Registration is the test plan: every model that a plug-in declares passes the conformance check."""

import pytest

from plm_core.hookspecs import Model
from plm_core.registry import registry
from plm_core.testing import check_model


@pytest.mark.parametrize("name", sorted(registry().all(Model)))
def test_registered_model(name):
    check_model(name)
