"""The history of a training: its logged values, with one entry per logged step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

EVALUATION = "eval_"
"""The Trainer's prefix for values of an evaluation, by which TensorBoard and Weights & Biases group them."""

COLUMNS = ("step", "epoch", "loss", "grad_norm", "learning_rate")
"""The values that every training logs. The others are parts of the loss and scores."""


def history(log: Iterable[Mapping[str, float]], aug_repeats: int = 1) -> list[dict[str, float]]:
    """Return one entry per step of the Trainer's log, which has a training's and an evaluation's values apart.

    Args:
        log: The Trainer's log.
        aug_repeats: Passes over the data that the Trainer counts as one epoch.

    Returns:
        Entries with "step", "epoch", "loss" and what else was logged. The names of an evaluation are those that the
        caller's function gave. The order of the values does not depend on the log, which a checkpoint sorts.
    """
    entries: dict[float, dict[str, float]] = {}
    for values in log:
        step = values["step"]
        if "loss" in values:
            entries[step] = {"step": step, "epoch": values["epoch"] * aug_repeats} | {
                name: value for name, value in values.items() if name not in ("step", "epoch")
            }
        elif step in entries:  # the other entries are the Trainer's totals
            entries[step] |= {
                name.removeprefix(EVALUATION): value for name, value in values.items() if name.startswith(EVALUATION)
            }
    return [{name: entry[name] for name in sorted(entry, key=_rank)} for entry in entries.values()]


def _rank(name: str) -> tuple[int, str]:
    """Return the sort key of a value: those of every training in the order of `COLUMNS`, then the others by name."""
    return (COLUMNS.index(name) if name in COLUMNS else len(COLUMNS)), name


def complete(epochs: float) -> int:
    """Return how many epochs are complete. A sum of fractions may be short of a whole number."""
    return int(epochs + 1e-6)


def passed(before: float, after: float, every: float = 1.0) -> bool:
    """Return whether a multiple of ``every`` epochs has been reached between two moments of a training."""
    return complete(after / every) > complete(before / every)
