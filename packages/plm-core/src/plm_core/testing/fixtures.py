"""Pytest fixtures for authors of plug-ins. pytest loads this module everywhere, so its imports must stay light."""

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
    """Run a `HubDouble` that `huggingface_hub` talks to, with an empty cache, until the test ends."""
    with HubDouble() as double:
        double.activate(monkeypatch, tmp_path / "hf_home")
        yield double


@pytest.fixture
def plm_registry(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Registry]]:
    """Install temporary distributions and return the registry that a new process would have.

    Call the fixture with keyword dicts for `write_distribution` (all but ``folder``), one for each distribution, and
    with ``environ`` for the PLM_* switches. Until the test ends, the result is the registry of this process, and timm
    knows its models.

        def test_mine(plm_registry):
            demo = {"name": "demo", "modules": {"demo_plugin.py": SOURCE}, "entry_points": {"demo": "demo_plugin"}}
            registry = plm_registry(demo)
            assert registry.statuses[-1].healthy
    """
    from plm_core.registry import Registry, using
    from plm_core.testing.distributions import write_distribution

    modules_before = set(sys.modules)
    contexts: list[Any] = []

    def make(*distributions: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Registry:
        for distribution in distributions:
            monkeypatch.syspath_prepend(write_distribution(tmp_path_factory.mktemp("distribution"), **distribution))
        registry = Registry(environ=environ or {})
        contexts.append(using(registry))
        contexts[-1].__enter__()
        _reset_timm_registry()
        return registry

    yield make
    for context in reversed(contexts):
        context.__exit__(None, None, None)
    _reset_timm_registry()
    folders = {Path(str(p)) for p in sys.path}
    for name in set(sys.modules) - modules_before:
        origin = getattr(sys.modules[name], "__file__", None) or ""
        if any(str(folder) in origin for folder in folders if "distribution" in folder.name):
            del sys.modules[name]


def _reset_timm_registry() -> None:
    """Make timm's registry hold the models of our current registry. timm has no public function to remove a model."""
    from plm_core import timm_bridge

    timm_registry: Any = sys.modules.get("timm.models._registry")
    if timm_registry is None:
        return
    for name, entry_point in list(timm_registry._model_entrypoints.items()):
        if hasattr(entry_point, "plm_model"):
            timm_registry._model_entrypoints.pop(name)
            timm_registry._clear_model_entries(name)
    timm_bridge.register()


@pytest.fixture
def tiny_weights(tmp_path: Path) -> Callable[..., Path]:
    """Write the weights of a model to a file and return its path: ``tiny_weights(model, layout="official")``."""

    def make(model: Any, layout: str | None = None, name: str = "model.safetensors") -> Path:
        from plm_core import weights

        path = tmp_path / name
        weights.save(model, path, layout)
        return path

    return make
