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


@pytest.fixture(scope="session")
def detector_encoder():
    """Return the trunk of the micro detector as keywords of a Hiera. The windows of the HieraDet are 8 tokens wide."""
    from hiera import configs

    return {
        **{key: configs.HIERADET["micro"][key] for key in ("embed_dim", "num_heads", "stages", "dim_mul", "head_mul")},
        "mlp_ratio": 2.0,
        "q_pool": 2,
        "mask_unit_size": (4, 4),
        "mask_unit_attn": (True, False, False),
        "input_size": (96, 96),
        "num_classes": 0,
    }
