"""Golden files: their groups, cases and configuration."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from plm_core.testing import Golden, goldens_in

CONFIG = {"kwargs": {"depth": 2}, "seed": 0}


@pytest.fixture
def folder(tmp_path):
    tensors = {
        "inputs.x": torch.arange(3.0),
        "weights.blocks.0.bias": torch.ones(2),
        "outputs.maps.1": torch.full((1,), 1.0),
        "outputs.maps.0": torch.zeros(1),
        "outputs.mapsize": torch.full((1,), 9.0),
    }
    save_file(tensors, tmp_path / "tiny.safetensors", {"config": json.dumps(CONFIG)})
    return tmp_path


def test_groups_cases_and_configuration(folder):
    golden = Golden(folder / "tiny.safetensors")
    assert golden.inputs["x"].tolist() == [0, 1, 2]
    assert list(golden.weights) == ["blocks.0.bias"]
    assert golden.outputs.keys() == {"maps.0", "maps.1", "mapsize"}
    assert golden.of("maps").keys() == {"0", "1"}
    assert golden.of("blocks.0", "weights").keys() == {"bias"}
    assert [tensor.item() for tensor in golden.outputs_of("maps")] == [0, 1]
    assert golden.config == CONFIG
    assert golden.kwargs == {"depth": 2}


def test_a_file_is_read_once_and_as_arrays_if_asked(folder):
    golden = goldens_in(folder, "numpy")
    assert golden("tiny") is golden("tiny")
    np.testing.assert_array_equal(golden("tiny").inputs["x"], [0, 1, 2])
