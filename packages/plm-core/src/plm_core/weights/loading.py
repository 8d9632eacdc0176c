"""Loading weights into a model, all or nothing."""

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

    A model with a method ``resample(key, tensor) -> tensor`` may resize tensors that are for another input size
    (position tables) to its own. A logged line names them.

    Args:
        model: Any model. One on the meta device takes the tensors unchanged, with their dtypes. Others copy the values.
        source: A file, a folder, a repository on the Hub or a dict of tensors, see `read`.
        layout: Name of the layout of the source (default: the layout that fits best).

    Returns:
        A report whose ``layout`` names the layout of the source.

    Raises:
        WeightsMismatch: Tensors are missing, unexpected or of another shape. The model is unchanged.
        WeightsError: The source cannot be read.
        InputError: The model has no such layout.

    Example:
        >>> import timm
        >>> from plm_core import weights
        >>> model, other = timm.create_model("test_vit"), timm.create_model("test_vit")
        >>> report = weights.load(other, model.state_dict())
        >>> report.ok, report.layout, report.num_fitting
        (True, 'native', 80)
        >>> try:
        ...     weights.load(timm.create_model("test_vit", num_classes=10), model.state_dict())
        ... except weights.WeightsMismatch as error:
        ...     print(error.report.num_fitting, error.report.mismatched["head.bias"])
        78 ((1000,), (10,))
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
        mapped = {key: value.clone() for key, value in mapped.items()}  # assign would share the caller's tensors
    model.load_state_dict(mapped, strict=True, assign=on_meta)
    return report


def resampled(
    model: nn.Module, mapped: dict[str, Tensor], report: Report, expected: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, Tensor], Report]:
    """Let the model resize tensors of another shape. The result counts, and is logged, only if everything then fits.

    Args:
        model: A model that may have a method ``resample``.
        mapped: Tensors by the model's own keys.
        report: How they fit.
        expected: Shapes by the model's own keys.

    Returns:
        The tensors and the report, with the resized tensors or unchanged.
    """
    resample = getattr(model, "resample", None)
    if resample is None:
        return mapped, report
    changed = {key: resample(key, mapped[key]) for key in report.mismatched}
    new_report = compare(report.layout, mapped | changed, report.unmapped, expected)
    if not new_report.ok:
        return mapped, report
    shapes = (f"{key} {list(mapped[key].shape)} to {list(value.shape)}" for key, value in changed.items())
    _log.warning("resampled for another input size, which costs accuracy until finetuned: %s", ", ".join(shapes))
    return mapped | changed, new_report
