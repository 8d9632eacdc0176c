"""The composition matrix: every transform, merger and scorer tried on an example of every family.

A cell is ``yes`` only after the combination ran: the transformed model gave finite outputs of the unpatched shape,
and the very outputs of before once the transform was removed. ``no: ...`` is a `NotSupported` with its reason,
``ERROR: ...`` anything else, which is a bug of the piece.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from plm_core import blocks, transforms
from plm_core.errors import NotSupported
from plm_core.hookspecs import BlockAdapter, Merger, Scorer, Transform
from plm_core.models import create_model, embed
from plm_core.names import resolve
from plm_core.progress import track
from plm_core.registry import registry


def compute() -> list[dict[str, Any]]:
    """One row for each block adapter: what its view says, and a cell for each piece that is installed."""
    hub = registry()
    adapters = {entry.declaration.name: entry.declaration for entry in hub.all(BlockAdapter).values()}
    rows = []
    for adapter in track(adapters.values(), "families"):
        row: dict[str, Any] = {"family": adapter.name} | _guard(lambda a=adapter: _facts(a))  # type: ignore[misc]
        for name, transform in hub.all(Transform).items():
            row[name] = _cell(lambda a=adapter, t=transform: _try_transform(_example(a), t.declaration.name))  # type: ignore[misc]
        for name, merger in hub.all(Merger).items():
            row[name] = _cell(lambda a=adapter, m=merger: _try_merger(a, m.declaration))  # type: ignore[misc]
        for name, scorer in hub.all(Scorer).items():
            row[name] = _cell(lambda a=adapter, s=scorer: _try_scorer(_example(a), s.declaration))  # type: ignore[misc]
        rows.append(row)
    return rows


def _example(adapter: BlockAdapter) -> nn.Module:
    torch.manual_seed(0)
    name, options = adapter.example
    return create_model(name, **options).eval()


def _input(model: Any) -> Tensor:
    size = model.pretrained_cfg["input_size"]
    return torch.rand(2, *size, generator=torch.Generator().manual_seed(0))


def _facts(adapter: BlockAdapter) -> dict[str, Any]:
    seen = blocks.view(_example(adapter))
    local = sum(b.local for b in seen.blocks)
    return {
        "example": adapter.example[0],
        "blocks": len(seen.blocks),
        "local": local,
        "prefix tokens": seen.tokens.prefix,
        "positions": seen.tokens.positions,
    }


@torch.inference_mode()
def _try_transform(model: nn.Module, name: str) -> None:
    x = _input(model)
    before = model(x)
    transforms.apply(model, name)
    during = model(x)
    transforms.remove(model, name)
    if during.shape != before.shape or not during.isfinite().all():
        raise RuntimeError(f"transformed output is {list(during.shape)}, the model's is {list(before.shape)}")
    if not torch.equal(model(x), before):
        raise RuntimeError("after remove() the model answers differently")


@torch.inference_mode()
def _try_merger(adapter: BlockAdapter, merger: Merger) -> None:
    model = _example(adapter)
    x = _input(model)
    merged = resolve(merger.merge)([model, _example(adapter)])
    if merged(x).shape != model(x).shape:
        raise RuntimeError(f"merged output is {list(merged(x).shape)}, the model's is {list(model(x).shape)}")


@torch.inference_mode()
def _try_scorer(model: nn.Module, scorer: Scorer) -> None:
    features = torch.cat([embed(model, _input(model)), embed(model, _input(model).flip(0) * 0.5)])
    score = resolve(scorer.score)(features.numpy(), [0, 1, 1, 0])
    if not torch.isfinite(torch.tensor(float(score))):
        raise RuntimeError(f"score is {score}")


def _cell(attempt: Callable[[], None]) -> str:
    try:
        attempt()
    except NotSupported as e:
        return f"no: {e}"
    except Exception as e:  # the matrix reports what is broken instead of breaking
        return f"ERROR: {type(e).__name__}: {e}"
    return "yes"


def _guard(facts: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return facts()
    except Exception as e:
        return {
            "example": f"ERROR: {type(e).__name__}: {e}",
            "blocks": "",
            "local": "",
            "prefix tokens": "",
            "positions": "",
        }
