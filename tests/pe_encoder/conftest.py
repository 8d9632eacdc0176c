import json
from pathlib import Path

import pytest
import torch
from torch import nn

from plm_core.testing import goldens_in

HERE = Path(__file__).parent
TOWER = {
    "patch_size": 8, "width": 48, "layers": 3, "heads": 3, "output_dim": 10, "image_size": 32, "attn_pooler_heads": 3
}  # fmt: skip
TEXT = {"context_length": 12, "width": 24, "heads": 2, "layers": 3, "output_dim": 10, "vocab_size": 50}


def shaken(model):
    """Return a model in eval mode in which every parameter matters."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.fixture(scope="session")
def golden():
    return goldens_in(HERE / "goldens")


@pytest.fixture(scope="session")
def manifest():
    return lambda name: json.loads((HERE / "manifests" / f"{name}.json").read_text())


@pytest.fixture
def tower():
    """Return a function that makes a tiny vision tower."""
    import pe_encoder

    return lambda **changes: shaken(pe_encoder.VisionTower(**TOWER | changes))


@pytest.fixture
def text_tower():
    import pe_encoder

    return lambda **changes: shaken(pe_encoder.TextTower(**TEXT | changes))


@pytest.fixture(scope="session")
def one_text_tower():
    import pe_encoder

    return shaken(pe_encoder.TextTower(**TEXT))


@pytest.fixture
def clip():
    import pe_encoder

    return shaken(pe_encoder.CLIP(vision=TOWER, text=TEXT))
