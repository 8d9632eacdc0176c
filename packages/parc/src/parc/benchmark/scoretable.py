"""A table of scores joined with the truth, and the capacity heuristic on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parc.benchmark.oracle import Oracle, load_oracle
from parc.benchmark.tables import KEY, Array, Columns, columns, looked_up, numbers
from parc.facts import LAYERS
from plm_core.errors import InputError

DEPTH = 50.0  # unit of layers in the capacity heuristic, regardless of the deepest model


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """Scores and truth, one row per run and transfer.

    Attributes:
        keys: The columns architecture, source and target, str [N].
        runs: The run of every row, [N].
        methods: Names of the M methods.
        scores: [N, M]. A score that was NaN is 0.
        truth: Accuracy, [N]; 0 or less if the transfer failed.
        missing: Number of scores of each method that were NaN, [M].
        layers: Depth by architecture.
    """

    keys: Columns
    runs: NDArray[Any]
    methods: tuple[str, ...]
    scores: Array
    truth: Array
    missing: NDArray[np.int64]
    layers: Mapping[str, float]


def capacity(table: ScoreTable, weight: float, over: str) -> Array:
    """Add the capacity heuristic to scores (Eq. 6 of the paper): (score - mean) / sd + weight * layers / 50.

    Args:
        table: Scores of all runs, targets and models. Failed transfers count for mean and sd, as published.
        weight: Weight of the layers, 1 in the paper.
        over: "table" for mean and sd (ddof 1) over the whole table, as published, or "target" for those of each target.

    Returns:
        Scores [N, M]. For a method that does not vary, only the layers remain.

    Raises:
        InputError: An architecture has no layers, or ``over`` has another value.
    """
    if over not in ("table", "target"):
        raise InputError(f"plasticity_over is {over!r}; 'table' (published) and 'target' are allowed")
    of_row = looked_up("layers", table.layers, table.keys["architecture"])
    z = np.empty_like(table.scores)
    groups = table.keys["target"] if over == "target" else np.zeros(len(z))
    for group in np.unique(groups):
        rows = groups == group
        z[rows] = _z(table.scores[rows])
    return z + weight * of_row[:, None] / DEPTH


def _z(values: Array) -> Array:
    varies = np.ptp(values, axis=0) > 0
    spread = np.where(varies, values.std(0, ddof=min(1, len(values) - 1)), 1.0)
    return np.asarray(np.where(varies, values - values.mean(0), 0.0) / spread)


def read_scores(
    scores: Any, oracle: Oracle | str | None, methods: Sequence[str] | None, layers: Mapping[str, float] | None
) -> ScoreTable:
    """Read a table of scores and join it with the truth. The arguments are those of `parc.benchmark.aggregate`."""
    table = columns(scores)
    for name in KEY:
        if name not in table:
            raise InputError(f"scores has no column {name!r}; it has {', '.join(table) or 'none'}")
    own = oracle is None and "oracle" in table
    names = tuple(methods or [name for name in table if name not in (*KEY, "run", "oracle")])
    if lacking := [name for name in names if name not in table]:
        raise InputError(f"scores has no column {lacking[0]!r}; it has {', '.join(table)}")
    if not names:
        raise InputError("scores has no column besides its keys; one per method is needed")

    truths: Oracle | None = None
    if not own:
        truths = oracle if isinstance(oracle, Oracle) else load_oracle(oracle or "controlled", failed=True)
    transfers = table["source"].astype(str) != table["target"].astype(str)
    keys = {name: table[name].astype(str)[transfers] for name in KEY}
    runs = table["run"][transfers] if "run" in table else np.zeros(len(keys["target"]), np.int64)
    truth = numbers("oracle", table["oracle"])[transfers] if truths is None else _joined(keys, truths)
    _check_unique(keys, runs)
    values = np.stack([_finite(name, numbers(name, table[name])[transfers]) for name in names], axis=1)
    missing = np.isnan(values)
    depth = layers or (truths.layers if truths else None) or LAYERS
    return ScoreTable(keys, runs, names, np.where(missing, 0.0, values), truth, missing.sum(0), depth)


def _finite(name: str, values: Array) -> Array:
    if np.isinf(values).any():
        raise InputError(f"scores column {name!r} has {np.isinf(values).sum()} infinite values; NaN says there is none")
    return values


def _joined(keys: Columns, oracle: Oracle) -> Array:
    """Return the true accuracy of every row, [N]."""
    truth = dict(zip(oracle.transfers(), oracle.accuracy.tolist(), strict=True))
    out = []
    for key in zip(*(keys[name].tolist() for name in KEY), strict=True):
        if key not in truth:
            raise InputError(f"scores has a row for {' / '.join(key)}, which is none of the oracle's {len(truth)}")
        out.append(truth[key])
    return np.array(out, np.float64)


def _check_unique(keys: Columns, runs: NDArray[Any]) -> None:
    earlier: set[tuple[Any, ...]] = set()
    for key in zip(*(keys[name].tolist() for name in KEY), runs.tolist(), strict=True):
        if key in earlier:
            raise InputError(f"scores has two rows for {' / '.join(key[:3])} in run {key[3]}")
        earlier.add(key)
