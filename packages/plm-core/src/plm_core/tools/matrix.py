"""The composition matrix: every transform, merger and scorer is tried on an example of every model family.

Each two transforms that work alone are tried together too, in both orders.

A cell is ``yes`` only after the pieces that the block adapter shows made up the blocks again (`check_blocks`) and the
combination ran: the transformed model gave finite outputs of the original shape, and exactly the original outputs once
the transform was removed. ``yes, and the order matters`` is a pair of transforms that answers differently in the two
orders. A scorer gives a finite score to the embedding of the example, which needs no view of the blocks, so windowed
families have one too. ``no: ...`` is a `NotSupported` with its reason, ``not installed: ...`` is a missing library, and
``ERROR: ...`` is any other error, which is a bug of the adapter, transform, merger or scorer.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import cache, partial
from itertools import combinations, permutations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plm_core import blocks, transforms
from plm_core.blocks.checking import check_blocks
from plm_core.blocks.examples import make, tensor_of
from plm_core.embedding import embed
from plm_core.errors import MissingDependency, NotSupported
from plm_core.hookspecs import BlockAdapter, Merger, Scorer, Transform
from plm_core.registry import registry
from plm_core.utils.progress import track
from plm_core.utils.references import resolve
from plm_core.utils.text import describe

VERDICTS = ("no", "not installed", "ERROR")
"""The words with which a cell begins that gives a reason."""
TOLERANCE = 1e-4
"""Answers that differ by at most this share of the largest one differ by rounding."""


def compute() -> list[dict[str, Any]]:
    """Return a row for each block adapter: facts from its view, and a cell for each transform, merger and scorer."""
    rows = []
    for adapter in track(registry().declared(BlockAdapter), "families"):
        row: dict[str, Any] = {"family": adapter.name} | _facts(adapter)
        wrong = row["blocks"] if str(row["blocks"]).startswith("ERROR") else ""
        for name, transform in registry().all(Transform).items():
            row[f"transform {name}"] = wrong or _cell(_try_transforms, adapter, (transform.declaration,))
        for pair in combinations(registry().all(Transform).values(), 2):
            first, second = (one.declaration for one in pair)
            alone = [row[f"transform {one.name}"] for one in (first, second)]
            refused = next((cell for cell in alone if cell != "yes"), "")
            row[f"transforms {first.name} + {second.name}"] = refused or _cell(
                _try_transforms, adapter, (first, second)
            )
        for name, merger in registry().all(Merger).items():
            row[f"merger {name}"] = wrong or _cell(_try_merger, adapter, merger.declaration)
        features = cache(partial(_features, adapter))
        for name, scorer in registry().all(Scorer).items():
            row[f"scorer {name}"] = _cell(_try_scorer, features, scorer.declaration)
        rows.append(row)
    return rows


def fold(rows: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """Fold all columns of a kind into one that gives the most frequent cell and then each that differs."""
    folded = []
    for row in rows:
        cells = {column: cell for column, cell in row.items() if column.startswith(f"{kind} ")}
        rest = {column: cell for column, cell in row.items() if column not in cells}
        if not cells:
            return rows
        common = max(cells.values(), key=list(cells.values()).count)
        others = [f"{column.removeprefix(f'{kind} ')} {cell}" for column, cell in cells.items() if cell != common]
        folded.append(rest | {f"{len(cells)} {kind}{'s' * (len(cells) > 1)}": "; ".join([common, *others])})
    return folded


def with_notes(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Replace the reason in a cell such as ``no: reason`` by the number of a note.

    Returns:
        The rows with cells such as ``no [1]``, and a row for each note: ``note`` and ``reason``.
    """
    notes: dict[str, int] = {}

    def shorten(cell: Any) -> Any:
        verdict, colon, reason = str(cell).partition(": ")
        if not colon or verdict not in VERDICTS:
            return cell
        return f"{verdict} [{notes.setdefault(reason, len(notes) + 1)}]"

    short = [{column: shorten(cell) for column, cell in row.items()} for row in rows]
    return short, [{"note": f"[{number}]", "reason": reason} for reason, number in notes.items()]


def _facts(adapter: BlockAdapter) -> dict[str, Any]:
    facts: dict[str, Any] = dict.fromkeys(("example", "blocks", "local", "prefix tokens", "positions"), "")
    facts["example"] = adapter.example[1].get("model", adapter.example[0])
    try:
        model, x = make(adapter)
        view = next(iter(blocks.find(model).values()))
        check_blocks(model, x)
    except MissingDependency:
        return facts | {"blocks": "not installed"}
    except NotSupported as e:
        return facts | {"blocks": f"no: {e}"}
    except KeyboardInterrupt:
        raise
    except BaseException as e:  # the matrix reports errors instead of raising them
        return facts | {"blocks": f"ERROR: {describe(e)}"}
    return facts | {
        "blocks": len(view.blocks),
        "local": sum(block.local for block in view.blocks),
        "prefix tokens": view.tokens.prefix,
        "positions": view.tokens.positions,
    }


def _try_transforms(adapter: BlockAdapter, together: tuple[Transform, ...]) -> str:
    """Apply transforms to the example of a family, in every order, and return the cell."""
    model, x = make(adapter)
    before = tensor_of(model(x))
    first, *others = (_transformed(model, x, order, before) for order in permutations(together))
    tolerance = TOLERANCE * first.abs().max().item()
    alike = all(torch.allclose(other, first, rtol=0, atol=tolerance) for other in others)
    return "yes" if alike else "yes, and the order matters"


def _transformed(model: Any, x: Any, order: tuple[Transform, ...], before: Tensor) -> Tensor:
    """Return what a model answers with transforms, after a check that without them it answers as before."""
    for transform in order:
        try:
            transforms.apply(model, transform.name, **transform.example)
        except NotSupported as e:
            applied = transforms.applied_to(model)
            transforms.remove(model)
            _check_same(tensor_of(model(x)), before, "after it was refused")
            raise NotSupported(f"after {applied[-1]}: {e}" if applied else str(e)) from e
    during = tensor_of(model(x))
    transforms.remove(model)
    if during.shape != before.shape:
        raise RuntimeError(f"transformed output is {list(during.shape)}, the model's is {list(before.shape)}")
    if not during.isfinite().all():
        raise RuntimeError("transformed output is not finite")
    _check_same(tensor_of(model(x)), before, "after remove()")
    return during


def _check_same(now: Tensor, before: Tensor, when: str) -> None:
    if not torch.equal(now, before):
        raise RuntimeError(f"{when} the model answers differently")


def _try_merger(adapter: BlockAdapter, merger: Merger) -> str:
    with torch.inference_mode(False), torch.no_grad():  # a merger may have the models traced
        model, x = make(adapter)
        merged = tensor_of(resolve(merger.merge)([model, make(adapter)[0]], [x])(x))
        own = tensor_of(model(x))
    if merged.shape != own.shape:
        raise RuntimeError(f"merged output is {list(merged.shape)}, the model's is {list(own.shape)}")
    return "yes"


def _features(adapter: BlockAdapter) -> NDArray[np.float32]:
    model, x = make(adapter)
    return torch.cat([embed(model, x), embed(model, x.flip(0) * 0.5)]).numpy()


def _try_scorer(features_of: Callable[[], NDArray[np.float32]], scorer: Scorer) -> str:
    features = features_of()
    inputs = {"probs": np.full((len(features), 2), 0.5), "reference_features": features, "num_classes": 2}
    options = {name: inputs[name] for name in scorer.needs}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scorers warn that four images are few
        score = float(resolve(scorer.score)(features, np.array([0, 1, 1, 0]), **options))
    if not math.isfinite(score):
        raise RuntimeError(f"score is {score}")
    return "yes"


@torch.inference_mode()
def _cell(attempt: Callable[[Any, Any], str], subject: Any, piece: Any) -> str:
    try:
        return attempt(subject, piece)
    except NotSupported as e:
        return f"no: {e}"
    except MissingDependency as e:
        return f"not installed: {e}"
    except KeyboardInterrupt:
        raise
    except BaseException as e:  # the matrix reports errors instead of raising them
        return f"ERROR: {describe(e)}"
