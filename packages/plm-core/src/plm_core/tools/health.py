"""Faults of plug-ins that show only when their code is imported and their weights are loaded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from plm_core.blocks import find
from plm_core.blocks.examples import make
from plm_core.declarations import references
from plm_core.errors import MissingDependency, NotSupported
from plm_core.hookspecs import KINDS, BlockAdapter, Declaration, Model, Pretrained
from plm_core.models import create_model
from plm_core.registry import CORE, registry
from plm_core.tools.shipped import file_faults
from plm_core.utils.references import resolve
from plm_core.utils.seeding import seeded_weights
from plm_core.utils.text import said


def code_faults(plugin: str | None = None) -> Iterator[str]:
    """Yield what is wrong with the code that plug-ins name: it is imported, and the examples of adapters are built.

    What needs a library that is not installed is passed over.

    Args:
        plugin: Name of one plug-in. None for all of them but plm-core's own.
    """
    for kind in KINDS:
        seen = set()
        for entry in registry().all(kind).values():
            declaration = entry.declaration
            if declaration.name in seen or (entry.plugin == CORE if plugin is None else entry.plugin != plugin):
                continue
            seen.add(declaration.name)  # an adapter for several classes is there several times
            who = f"{kind.word} {declaration.name!r} of {entry.distribution}"
            faults = list(_reference_faults(declaration))
            if isinstance(declaration, BlockAdapter) and not faults:
                faults = list(_example_faults(declaration))
            yield from (f"{who}: {fault}" for fault in faults)


def _reference_faults(declaration: Declaration) -> Iterator[str]:
    for field, reference in references(declaration):
        try:
            named = resolve(reference)
        except MissingDependency:
            continue
        except Exception as e:
            yield f"{field}: {said(e)}"
            continue
        if field.endswith(".models"):
            if not (isinstance(named, type) and issubclass(named, nn.Module)):
                yield f"{field}: {reference!r} is no class of models"
        elif not (callable(named) or field in ("Training.configs", "Command.implementation")):
            yield f"{field}: {reference!r} is a {type(named).__name__}, which cannot be called"


def _example_faults(adapter: BlockAdapter) -> Iterator[str]:
    classes = []
    for reference in adapter.models:
        try:
            classes.append(resolve(reference))
        except MissingDependency:
            continue
    try:
        model, _ = make(adapter)
    except MissingDependency:
        return
    except Exception as e:
        yield f"BlockAdapter.example {adapter.example[0]!r} cannot be built: {said(e)}"
        return
    if not any(isinstance(part, tuple(classes)) for part in model.modules()):
        yield f"BlockAdapter.example {adapter.example[0]!r} is no {' or '.join(cls.__name__ for cls in classes)}"
        return
    try:
        find(model)
    except NotSupported:
        pass  # a view may refuse a whole family, with the reason
    except Exception as e:
        yield f"BlockAdapter.view {adapter.view!r}: {said(e)}"


def weights_faults(model: Model, weights: Pretrained) -> Iterator[str]:
    """Yield what is wrong with a set of shipped weights: it is loaded as a user would. Nothing for one on the Hub."""
    if weights.repo is not None:
        return
    faults = list(file_faults(model, weights))
    yield from faults
    if any(fault.startswith("file ") for fault in faults):  # there is nothing to load
        return
    name = f"{model.name}.{weights.tag}"
    try:
        with seeded_weights(0):
            loaded: Any = create_model(name, pretrained=True)
    except MissingDependency:
        return
    except Exception as e:
        yield f"weights {name} do not load: {said(e)}"
        return
    broken = [
        key for key, value in loaded.state_dict().items() if value.is_floating_point() and not value.isfinite().all()
    ]
    if broken:
        more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
        yield f"weights {name} have values in {broken[0]}{more} that are not finite"
