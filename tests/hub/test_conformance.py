"""Registration is the test plan: every model that a plug-in declares passes the conformance check."""

import pytest

from plm_core.hookspecs import Model
from plm_core.registry import registry
from plm_core.testing import check_model

# Larger sizes of one architecture only repeat what the smaller ones show; the images' go through all the same.
REPEATED = {"hiera_video_base_plus_16x224", "hiera_video_large_16x224", "hiera_video_huge_16x224"}
NAMES = [pytest.param(n, marks=[pytest.mark.slow] if n in REPEATED else []) for n in sorted(registry().all(Model))]


@pytest.mark.parametrize("name", NAMES)
def test_registered_model(name):
    check_model(name)
