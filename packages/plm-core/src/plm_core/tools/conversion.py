"""Convert a weights file of one layout to a safetensors file of another."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from plm_core import weights
from plm_core.errors import InputError, MissingDependency
from plm_core.hookspecs import Model
from plm_core.layouts import State
from plm_core.models import create_model
from plm_core.registry import registry
from plm_core.utils.text import as_tuple
from plm_core.weights.checks import check_kinds
from plm_core.weights.files import safetensors_path
from plm_core.weights.mapping import announce_rest


@dataclass(frozen=True)
class Conversion:
    """The result of a conversion: model, layout of the source, number of tensors written."""

    model: str
    source_layout: str
    tensors: int


def convert_file(
    source: str | Path,
    target: str | Path,
    to: str = "native",
    layout: str | None = None,
    model: str | None = None,
    *,
    ema: bool | None = None,
    key: str | None = None,
) -> Conversion:
    """Read weights, map them to another layout and write them as safetensors. dtypes are kept.

    Args:
        source: See `plm_core.weights.read`. Pickles are read with ``weights_only=True``.
        target: The .safetensors file. It is written completely or not at all.
        to: Layout to write.
        layout: Layout of the source. None to recognise it.
        model: Name of the model. None to try the declared models that have about as many parameters as the source.
        ema: Which weights of a checkpoint to take: True for their moving average, False for the weights themselves,
            None for the average if there is one.
        key: The key under which a checkpoint holds the weights, if it is an unusual one.

    Raises:
        WeightsError: The source cannot be read or does not fit. Nothing is written.
        InputError: There is no such layout, no model is named and none fits, or the checkpoint has no such weights.
    """
    target = safetensors_path("target", target)
    state = weights.read(source, allow_pickle=True, ema=ema, key=key)
    name, net = _model_for(state, model)
    mapped, report = weights.to_native(net, state, layout)
    if not report.ok:
        raise weights.mismatch(report, name, net, state)
    check_kinds(mapped, net.state_dict())
    announce_rest(report, name)
    net.load_state_dict(mapped, assign=True)  # the source's own tensors replace those on the meta device
    tensors = weights.export(net, to)
    weights.write(tensors, target, {"model": name, "layout": to})
    return Conversion(name, report.layout, len(tensors))


def _model_for(state: State, name: str | None) -> tuple[str, nn.Module]:
    """Return the model's name and the model on the meta device, with as many classes as the source."""
    if name is not None:
        return name, _with_head_of(state, name)
    total = sum(value.numel() for value in state.values())
    totals = Counter({"": total})  # of the source, and of each part of it, since a model may be a part of a larger file
    for key, value in state.items():
        totals[key.partition(".")[0]] += value.numel()
    candidates: dict[str, str] = {}
    most = 0
    for candidate, entry in registry().all(Model).items():
        # a head of another size changes the total; if it does by more than this, --model is needed
        params = entry.declaration.params
        if any(abs(params - total) <= 0.2 * params for total in totals.values()):
            try:
                net = _with_head_of(state, candidate)
            except MissingDependency:  # the user did not ask for this model
                continue
            report = weights.to_native(net, state)[1]
            if report.ok:
                return candidate, net
            fitting, expected = report.num_fitting, len(net.state_dict())
            line = f"{fitting} of its {expected} tensors fit in layout {report.layout!r}" if fitting else ""
            candidates[candidate] = line
            most = max(most, fitting)
    fits = [f"{name}, where {line}" for name, line in candidates.items() if line.startswith(f"{most} of ")]
    what = f"closest in size: {', '.join(candidates)}" if candidates else "none is near in size"
    if fits:
        what = f"closest: {fits[0]}"
    advice = "name the model with --model" + (" to see what does not fit" if fits else "")
    raise InputError(f"no declared model fits the source ({total:,} values; {what}); {advice}")


def _with_head_of(state: State, name: str) -> nn.Module:
    with torch.device("meta"):
        net: Any = create_model(name)
        mapped, report = weights.to_native(net, state)
        heads = {f"{layer}.weight" for layer in as_tuple(net.pretrained_cfg.get("classifier"))}
        for key in [*report.mismatched, *report.missing]:
            if key in heads:
                rows = len(mapped[key]) if key in mapped and mapped[key].ndim else 0
                if hasattr(net, "reset_classifier"):
                    net.reset_classifier(rows)
                    continue
                # a detector, whose heads have the background as a further class
                classes = rows * (net.num_classes + 1) // len(net.get_parameter(key)) - 1
                return create_model(name, num_classes=classes) if classes > 0 else net
    return net
