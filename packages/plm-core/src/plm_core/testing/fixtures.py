"""Pytest fixtures for plug-in authors, loaded through the `pytest11` entry point; keep the imports light."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from plm_core.testing.hub_double import HubDouble

if TYPE_CHECKING:
    from plm_core.registry import Registry


@pytest.fixture
def hub_double(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubDouble]:
    """A running `HubDouble` that `huggingface_hub` talks to, with an empty cache, until the test ends."""
    with HubDouble() as hub:
        hub.activate(monkeypatch, tmp_path / "hf_home")
        yield hub


@pytest.fixture
def plm_registry(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Registry]]:
    """Install throw-away distributions and get the registry that a fresh process would have.

    Call it with any number of keyword dicts for `write_distribution` (all but ``folder``), and ``environ`` for the
    PLM_* switches; the result is the registry of this process until the test ends, and timm knows its models.

        def test_mine(plm_registry):
            demo = {"name": "demo", "modules": {"demo_plugin.py": SOURCE}, "entry_points": {"demo": "demo_plugin"}}
            hub = plm_registry(demo)
            assert hub.statuses[-1].healthy
    """
    from plm_core import timm_bridge
    from plm_core.registry import Registry, using
    from plm_core.testing.distributions import write_distribution

    modules_before = set(sys.modules)
    timm_before = _timm_models()
    contexts: list[Any] = []

    def make(*distributions: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Registry:
        for distribution in distributions:
            monkeypatch.syspath_prepend(write_distribution(tmp_path_factory.mktemp("distribution"), **distribution))
        hub = Registry(environ=environ or {})
        contexts.append(using(hub))
        contexts[-1].__enter__()
        timm_bridge.register()
        return hub

    yield make
    for context in reversed(contexts):
        context.__exit__(None, None, None)
    _forget_timm_models(timm_before)
    ours = {Path(str(p)) for p in sys.path}
    for name in set(sys.modules) - modules_before:
        origin = getattr(sys.modules[name], "__file__", None) or ""
        if any(str(folder) in origin for folder in ours if "distribution" in folder.name):
            del sys.modules[name]


def _timm_models() -> set[str]:
    timm_registry = sys.modules.get("timm.models._registry")
    return set(timm_registry._model_entrypoints) if timm_registry else set()


def _forget_timm_models(keep: set[str]) -> None:
    """Take the throw-away models out of timm's registry, for which timm has no public function."""
    timm_registry: Any = sys.modules.get("timm.models._registry")
    if timm_registry is None or not keep:
        return
    for name in set(timm_registry._model_entrypoints) - keep:
        timm_registry._model_entrypoints.pop(name)
        timm_registry._clear_model_entries(name)


@pytest.fixture
def tiny_weights(tmp_path: Path) -> Callable[..., Path]:
    """Write a model's random weights as safetensors and get the path: ``tiny_weights(model, layout="official")``."""

    def make(model: Any, layout: str | None = None, name: str = "model.safetensors") -> Path:
        from plm_core import weights

        path = tmp_path / name
        weights.save(model, path, layout)
        return path

    return make
