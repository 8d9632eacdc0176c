"""Weights loaded into a model, all or nothing."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from plm_core.errors import WeightsError
from plm_core.layouts import State
from plm_core.weights.files import read
from plm_core.weights.mapping import Report, compare, mismatch, to_native

_log = logging.getLogger("plm_core")


def load(model: nn.Module, source: str | Path | State, layout: str | None = None) -> Report:
    """Load weights into a model, all or nothing.

    A model with a method ``resample(key, tensor) -> tensor`` may bring tensors for another input size (position tables)
    to its own; a logged line names them.

    Args:
        model: Any model; one on the meta device takes the tensors as they are (dtype included), others copy them.
        source: See `read`.
        layout: Name of the layout of the source; recognised when None.

    Returns:
        The report, whose ``layout`` says which one it was.

    Raises:
        WeightsMismatch: Something is missing, unexpected or of another shape; the model is unchanged.
        WeightsError: The source cannot be read.
        InputError: No such layout for this model.
    """
    state = read(source)
    mapped, report = to_native(model, state, layout)
    if report.mismatched:
        mapped, report = resampled(model, mapped, report, {k: tuple(v.shape) for k, v in model.state_dict().items()})
    if not report.ok:
        raise mismatch(report, type(model).__name__, model, state)
    own = model.state_dict()
    for key, value in mapped.items():
        if value.is_floating_point() != own[key].is_floating_point():
            raise WeightsError(f"{key} is {value.dtype} in the source and {own[key].dtype} in the model")
    on_meta = any(p.is_meta for p in own.values())
    if on_meta and isinstance(source, Mapping):
        mapped = {key: value.clone() for key, value in mapped.items()}  # assigning the caller's would share them
    model.load_state_dict(mapped, strict=True, assign=on_meta)
    return report


def resampled(
    model: nn.Module, mapped: dict[str, Tensor], report: Report, wanted: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, Tensor], Report]:
    """Let the model bring tensors of another shape to its own; says so only if then everything fits."""
    resample = getattr(model, "resample", None)
    if resample is None:
        return mapped, report
    changed = {key: resample(key, mapped[key]) for key in report.mismatched}
    again = compare(report.layout, mapped | changed, report.unmapped, wanted)
    if not again.ok:
        return mapped, report
    shapes = (f"{key} {list(mapped[key].shape)} to {list(value.shape)}" for key, value in changed.items())
    _log.warning("resampled for another input size, which costs accuracy until finetuned: %s", ", ".join(shapes))
    return mapped | changed, again
