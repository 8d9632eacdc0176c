"""Pytest fixtures for plug-in authors, loaded through the `pytest11` entry point; keep the imports light."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from plm_core.testing.hub_double import HubDouble


@pytest.fixture
def hub_double(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubDouble]:
    """A running `HubDouble` that `huggingface_hub` talks to, with an empty cache, until the test ends."""
    with HubDouble() as hub:
        hub.activate(monkeypatch, tmp_path / "hf_home")
        yield hub
