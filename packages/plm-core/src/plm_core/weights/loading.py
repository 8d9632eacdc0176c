"""Loading weights into a model, all or nothing."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from plm_core.errors import WeightsError
from plm_core.layouts import State
from plm_core.utils.arguments import check_type
from plm_core.utils.text import shown
from plm_core.weights.checks import check_kinds, check_range, own_state
from plm_core.weights.files import read
from plm_core.weights.mapping import Report, announce_rest, compare, mismatch, to_native, unwrapped

_log = logging.getLogger("plm_core")


def load(model: nn.Module, source: str | Path | State, layout: str | None = None) -> Report:
    """Load weights into a model, all or nothing.

    A model with a method ``resample(key, tensor) -> tensor`` may resize tensors that are for another input size
    (position tables) to its own. A logged line names them.

    Args:
        model: Any model. One on the meta device gets copies of the tensors, with their dtypes. Others copy the values
            into their own tensors.
        source: A file, a folder, a repository on the Hub or a dict of tensors, see `read`. A file may hold more than
            the model if its layout says so; a logged line names the rest.
        layout: Name of the layout of the source (default: the layout that fits best).

    Returns:
        A report whose ``layout`` names the layout of the source.

    Raises:
        WeightsMismatch: Tensors are missing, unexpected or of another shape. The model is unchanged.
        WeightsError: The source cannot be read, or holds tensors or values that the model cannot hold. The model is
            unchanged.
        InputError: The model has no such layout, or an argument is of another type.

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
    check_type("model", model, nn.Module, "an nn.Module")
    model = unwrapped(model)
    state = read(source)
    mapped, report = to_native(model, state, layout)
    own = own_state(model)
    if report.mismatched:
        mapped, report = resampled(model, mapped, report, {k: tuple(v.shape) for k, v in own.items()})
    if not report.ok:
        raise mismatch(report, type(model).__name__, model, state)
    check_kinds(mapped, own)
    on_meta = any(value.is_meta for value in own.values())
    if on_meta:  # without the copies the model would share the caller's tensors, or be a map of the file
        mapped = {key: value.clone() for key, value in mapped.items()}
    else:
        check_range(mapped, own)
        _rehearse(model, own)
    model.load_state_dict(mapped, strict=True, assign=on_meta)
    announce_rest(report, type(model).__name__)
    return report


def _rehearse(model: nn.Module, own: State) -> None:
    """Load the model's own tensors into it, which changes nothing, so that a model that cannot be written to says so.

    Raises:
        WeightsError: A tensor of the model shares memory with itself, was made for inference only, or the like.
    """
    for key, value in own.items():  # copied onto themselves they raise nothing
        if any(stride == 0 and size > 1 for stride, size in zip(value.stride(), value.shape, strict=True)):
            raise WeightsError(f"{type(model).__name__} takes no weights: {key} is one value seen several times")
    try:
        model.load_state_dict(own, strict=True)
    except Exception as e:  # hooks of a model may raise anything
        raise WeightsError(f"{type(model).__name__} takes no weights: {shown(' '.join(str(e).split()), 300)}") from e


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
    new_report.rest = report.rest
    shapes = (f"{key} {list(mapped[key].shape)} to {list(value.shape)}" for key, value in changed.items())
    _log.warning("resampled for another input size, which costs accuracy until finetuned: %s", ", ".join(shapes))
    return mapped | changed, new_report
