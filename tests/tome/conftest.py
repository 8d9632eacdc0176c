import json
from pathlib import Path

import pytest
from safetensors import safe_open

HERE = Path(__file__).parent


class Golden:
    """Recorded inputs, weights and outputs of an original implementation, and their configuration."""

    def __init__(self, name):
        with safe_open(HERE / "goldens" / f"{name}.safetensors", "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
            self.config = json.loads(file.metadata()["config"])
        for group in ("inputs", "weights", "outputs"):
            setattr(self, group, {k.removeprefix(f"{group}."): v for k, v in tensors.items() if k.startswith(group)})

    def of(self, case, group="outputs"):
        """Return the tensors of one case by name."""
        return {k.removeprefix(f"{case}."): v for k, v in getattr(self, group).items() if k.startswith(f"{case}.")}


@pytest.fixture(scope="session")
def golden():
    return Golden
