"""`apply`, `remove` and `report`."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from plm_core import transforms
from plm_core.blocks import forward_class, swap, swap_back
from plm_core.errors import InputError, NotSupported
from plm_core.packing import operators
from plm_core.packing.convolutions import PackedConv2d, is_plain
from plm_core.packing.fusion import Absorbed, pairs
from plm_core.packing.layers import Packed, PackedLinear, State, has_changes, name_of, settle

_log = logging.getLogger(__name__)
NAME = "packed"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
STATE = "plm_packing"
LEFT = "_plm_left_plain"
LINEAR, CONVOLUTION = "linear layers", "convolutions"
KINDS: dict[str, tuple[type[nn.Module], type[Packed], tuple[str, ...]]] = {
    LINEAR: (nn.Linear, PackedLinear, ("torch.nn.modules.linear:Linear", "timm.layers.linear:Linear")),
    CONVOLUTION: (nn.Conv2d, PackedConv2d, ("torch.nn.modules.conv:Conv2d",)),
}
"""For each kind of layers their class, the mixin, and the classes whose forward is known.

timm's linear layer differs from torch's only in TorchScript.
"""


def apply(
    model: nn.Module,
    *,
    dtype: str = "fp32",
    convolutions: bool = True,
    tune: bool = True,
    keep: bool = False,
    example: Tensor | None = None,
) -> None:
    """Let the layers of a model compute by oneDNN with packed weights, on the CPU, for inference.

    These are linear layers, and in float32 convolutions of images. In float32 the answers are those of the model to
    about 1e-6. ``state_dict``, ``parameters`` and the rest of torch see the plain weights, which are made of the packed
    ones when somebody asks for them. In bfloat16 the plain weights stay, since the packed ones have lost digits, so the
    model takes one and a half times the memory.

    Args:
        model: The model, in eval mode, in float32.
        dtype: In which the layers compute: "fp32" or "bf16". With "bf16", call the model inside
            ``torch.autocast("cpu", torch.bfloat16)``, as any model in bfloat16. Outside, the layers compute in bfloat16
            too, but return float32, so the model is slower and otherwise works in float32.
        convolutions: Whether convolutions are packed, too. Their outputs then have their channels last in memory, as
            after ``model.to(memory_format=torch.channels_last)``. A model that reads them with ``view`` fails, and has
            to leave them out.
        tune: Whether each layer is timed both ways for each size of its inputs when it first sees it. A layer that
            gains nothing stays as it is. Otherwise every layer is packed.
        keep: Whether the plain weights stay in memory beside the packed ones.
        example: An input of the model, with which it runs once, so that it is tuned. None lets the first call do this,
            which a compiled or exported model needs before.

    Raises:
        NotSupported: The model is in training mode, on another device or of another dtype, or has no layer that can be
            packed, or this torch lacks the operators.
        InputError: An argument is not allowed, or layers of the model are packed already.
    """
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise InputError(f"dtype is {dtype!r}; it is {' or '.join(map(repr, DTYPES))}")
    for name, value in (("convolutions", convolutions), ("tune", tune), ("keep", keep)):
        if not isinstance(value, bool):
            raise InputError(f"{name} is {value!r}; it is True or False")
    if example is not None and not isinstance(example, Tensor):
        raise InputError(f"example is a {type(example).__name__}; it is a tensor, an input of the model")
    _refuse(model, DTYPES[dtype])
    if _packed(model):
        raise InputError(f"layers of this {type(model).__name__} are packed already; remove the transform first")
    kinds = KINDS if dtype == "fp32" and convolutions else {LINEAR: KINDS[LINEAR]}
    found = {kind: dict(_layers(model, *rest)) for kind, rest in kinds.items()}
    left = {kind: Counter(filter(None, layers.values())) for kind, layers in found.items()}
    chosen = {layer: kinds[kind][1] for kind, layers in found.items() for layer, why in layers.items() if not why}
    if not chosen:
        what = " or ".join(kind.removesuffix("s") for kind in kinds)
        raise NotSupported(f"{type(model).__name__} has no {what} that can be packed{_listed(_sum(left))}")
    _install(model, chosen, State(tune, keep or dtype != "fp32", DTYPES[dtype]))
    model.__dict__[LEFT] = left
    transforms.record(model, NAME)
    if example is not None:
        try:
            with torch.inference_mode():
                model(example)
        except BaseException as e:
            remove(model)
            if isinstance(e, RuntimeError) and "view size is not compatible" in str(e):
                raise NotSupported(
                    f"{type(model).__name__} reads the output of a convolution with view, which needs its channels "
                    "first in memory: pass convolutions=False"
                ) from e
            raise
        _log.info("%s", report(model))


def _install(model: nn.Module, layers: dict[nn.Module, type[Packed]], state: State) -> None:
    for layer, mixin in layers.items():
        layer.__dict__[STATE] = replace(state, ways={})
        swap(layer, mixin)
    for layer, activation, name in list(pairs(model)):
        if isinstance(layer, PackedLinear):
            layer.plm_packing.activation = name
            swap(activation, Absorbed)


def remove(model: nn.Module) -> nn.Module:
    """Restore the layers of a model, with the weights that they have now.

    Raises:
        InputError: No layer is packed.
    """
    packed = _packed(model)
    if not packed:
        raise InputError("no layer of the model is packed")
    for module in packed:
        if isinstance(module, Packed):
            settle(module)
            module.__dict__.pop(STATE)
        swap_back(module)
    model.__dict__.pop(LEFT, None)
    transforms.forget(model, NAME)
    return model


def report(model: nn.Module) -> str:
    """Return in one line how many layers compute with packed weights, and how many do not and why."""
    packed = [module for module in model.modules() if isinstance(module, Packed)]
    if not packed:
        return "no layer is packed"
    states = [module.plm_packing for module in packed]
    before: dict[str, Counter[str]] = model.__dict__.get(LEFT, {})
    counts = []
    for kind, (base, *_) in KINDS.items():
        of_kind = [module.plm_packing for module in packed if isinstance(module, base)]
        total = len(of_kind) + sum(before.get(kind, {}).values())
        if total:
            counts.append(f"{sum(state.weight is not None for state in of_kind)} of {total} {kind}")
    left = _sum(before)
    left["faster as they are"] += sum(bool(state.ways) and state.weight is None for state in states)
    left["not called yet"] += sum(not state.ways for state in states)
    dtype = "" if states[0].dtype is torch.float32 else f" in {name_of(states[0].dtype)}"
    fused = sum(bool(state.weight is not None and state.activation) for state in states)
    with_activation = f", {fused} of them with the activation after it" if fused else ""
    return f"{' and '.join(counts)} are packed{dtype}{with_activation}{_listed(left)}"


def _packed(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, Packed | Absorbed)]


def _sum(left: dict[str, Counter[str]]) -> Counter[str]:
    return sum(left.values(), Counter())


def _listed(left: Counter[str]) -> str:
    reasons = [f"{count} {reason}" for reason, count in left.items() if count]
    return f"; left as they are: {', '.join(reasons)}" if reasons else ""


def _refuse(model: nn.Module, dtype: torch.dtype) -> None:
    if not isinstance(model, nn.Module):
        raise NotSupported(f"a {type(model).__name__} is no torch.nn.Module: pack the models inside it")
    why = operators.missing(dtype)
    if why:
        raise NotSupported(f"no layer can be packed in {name_of(dtype)}: {why}")
    if any(module.training for module in model.modules()):
        raise NotSupported(
            f"{type(model).__name__} is in training mode, and packed layers are for inference: call eval()"
        )
    others = Counter(f"{p.dtype} on {p.device.type}".removeprefix("torch.") for p in model.parameters())
    if others and "float32 on cpu" not in others:
        raise NotSupported(
            f"{type(model).__name__} is {others.most_common(1)[0][0]}; layers can be packed in float32 on the CPU"
        )


def _layers(
    model: nn.Module, base: type[nn.Module], mixin: type[Packed], known: tuple[str, ...]
) -> Iterator[tuple[nn.Module, str]]:
    """Yield each layer of a class, and why it cannot be packed; an empty text if it can."""
    holders = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    readers = (nn.MultiheadAttention, nn.TransformerEncoderLayer)  # they read the weights and never call the layers
    unused = {part for module in model.modules() if isinstance(module, readers) for part in module.modules()}
    for layer in model.modules():
        if isinstance(layer, base):
            yield layer, _reason(layer, known, holders, unused)


def _reason(layer: Any, known: tuple[str, ...], holders: Counter[int], unused: set[nn.Module]) -> str:
    if layer in unused:
        return "never called by the module that holds them"
    if is_parametrized(layer):
        return "parametrized"
    kind = forward_class(layer)
    if f"{kind.__module__}:{kind.__name__}" not in known:
        return f"of the class {kind.__module__}.{kind.__name__}"
    if has_changes(layer):
        return "with hooks or a forward of their own"
    if isinstance(layer, nn.Conv2d) and not is_plain(layer):
        return "with a padding that is no number of zeros"
    weight = layer.weight
    if holders[id(weight)] > 1:
        return "with a weight that another layer shares"
    if weight.dtype is not torch.float32 or weight.device.type != "cpu" or weight.layout is not torch.strided:
        return "of another dtype, device or layout"
    if type(weight) is not nn.Parameter:
        return f"with a {type(weight).__name__} as weight"
    return ""
