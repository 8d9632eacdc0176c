import json
from pathlib import Path

import pytest
from safetensors import safe_open

HERE = Path(__file__).parent


class Golden:
    """Inputs, weights and outputs of an original, with the constructor arguments that made them."""

    def __init__(self, name):
        with safe_open(HERE / "goldens" / f"{name}.safetensors", "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
            self.config = json.loads(file.metadata()["config"])
            self.kwargs = self.config.get("kwargs")
        for group in ("inputs", "weights", "outputs"):
            setattr(self, group, {k.removeprefix(f"{group}."): v for k, v in tensors.items() if k.startswith(group)})

    def outputs_of(self, prefix):
        return [self.outputs[key] for key in sorted(self.outputs) if key.startswith(f"{prefix}.")]


@pytest.fixture(scope="session")
def golden():
    return Golden


@pytest.fixture(scope="session")
def manifest():
    return lambda name: json.loads((HERE / "manifests" / f"{name}.json").read_text())
