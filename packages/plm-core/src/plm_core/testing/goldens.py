"""Goldens and manifests of original implementations, to compare ours with.

A golden is a file with inputs, weights and outputs. A manifest lists the names and shapes of a checkpoint's tensors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

GROUPS = ("inputs", "weights", "outputs")


class Golden:
    """The tensors of a golden file in three groups, and the configuration that produced them.

    The keys of the file are ``inputs.NAME``, ``weights.NAME`` and ``outputs.NAME``. The entry ``config`` of its header
    is a JSON object.

    Args:
        path: The safetensors file.
        framework: Whether to read torch tensors ("pt") or NumPy arrays ("numpy").

    Attributes:
        inputs: The inputs by name.
        weights: The weights by the original's keys.
        outputs: The outputs by name.
        config: The configuration.
        metadata: All entries of the header, as text.
        kwargs: The constructor arguments in the configuration, if it has any.
    """

    def __init__(self, path: Path, framework: Literal["pt", "numpy"] = "pt") -> None:
        from safetensors import safe_open

        with safe_open(path, framework) as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (the file is not a dict)
            self.metadata: dict[str, str] = file.metadata()
        self.config: dict[str, Any] = json.loads(self.metadata["config"])
        self.kwargs: dict[str, Any] | None = self.config.get("kwargs")
        self.inputs, self.weights, self.outputs = (_below(group, tensors) for group in GROUPS)

    def of(self, case: str, group: Literal["inputs", "weights", "outputs"] = "outputs") -> dict[str, Any]:
        """Return the tensors of one case in a group, ``CASE.NAME``, by their own names."""
        return _below(case, getattr(self, group))

    def outputs_of(self, prefix: str) -> list[Any]:
        """Return the outputs ``PREFIX.NAME``, sorted by name."""
        return [tensor for _, tensor in sorted(self.of(prefix).items())]


def goldens_in(folder: Path, framework: Literal["pt", "numpy"] = "pt") -> Callable[[str], Golden]:
    """Return a function that reads ``folder/NAME.safetensors`` as a `Golden`, once for each name.

    It makes a fixture:

        @pytest.fixture(scope="session")
        def golden():
            return goldens_in(Path(__file__).parent / "goldens")
    """

    @cache
    def golden(name: str) -> Golden:
        return Golden(folder / f"{name}.safetensors", framework)

    return golden


def expand_manifest(tensors: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    """Return the shapes by name, with patterns such as ``blocks.{0..2}.norm1.weight`` written out as three names."""
    out: dict[str, tuple[int, ...]] = {}
    for pattern, shape in tensors.items():
        match = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
        if match is None:
            out[pattern] = tuple(shape)
        else:
            numbers = range(int(match[1]), int(match[2]) + 1)
            out |= expand_manifest({pattern.replace(match[0], str(number), 1): shape for number in numbers})
    return out


def _below(prefix: str, tensors: dict[str, Any]) -> dict[str, Any]:
    """Return the tensors whose keys start with ``prefix.``, by the rest of the key."""
    return {key.removeprefix(f"{prefix}."): tensor for key, tensor in tensors.items() if key.startswith(f"{prefix}.")}
