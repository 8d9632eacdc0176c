import json
from pathlib import Path

import pytest
from safetensors import safe_open

GOLDENS = Path(__file__).parent / "goldens"


class Golden:
    """Inputs and outputs of the original (numpy), and the configuration that made them."""

    def __init__(self, name):
        with safe_open(GOLDENS / f"{name}.safetensors", "np") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
            self.config = json.loads(file.metadata()["config"])
        for group in ("inputs", "outputs"):
            setattr(self, group, {k.removeprefix(f"{group}."): v for k, v in tensors.items() if k.startswith(group)})


@pytest.fixture(scope="session")
def golden():
    """``golden("scores_n500_d64_c5").outputs["parc"]``; each file is read once."""
    cache = {}

    def get(name):
        if name not in cache:
            cache[name] = Golden(name)
        return cache[name]

    return get
