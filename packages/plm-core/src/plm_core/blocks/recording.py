"""Recordings of what a model and its blocks do with an input, for the check of a block adapter."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plm_core.blocks.swapping import original_class
from plm_core.blocks.views import ModelView

TOLERANCE = 1e-5
"""Largest difference between two outputs that should be equal, relative to the largest value above one."""


Input = Tensor | Sequence[Tensor]
"""An input of a model: a batch, or the images of a detector, which may differ in size."""


@dataclass(frozen=True)
class Call:
    """A call of a module: its first argument, the others by name, and what it returned."""

    x: Any
    context: Mapping[str, Any]
    y: Any


@dataclass
class Run:
    """The calls of one run of a model, in their order."""

    blocks: dict[nn.Module, Call] = field(default_factory=dict)
    """The last call of each shown block, and of what stands beside them under the same names but for the numbers."""
    model: Call | None = None
    """The call of the model of the view; None if only its methods were called."""


def record(model: nn.Module, view: ModelView, x: Input) -> Run:
    """Run a model and record the calls of its blocks."""
    run = Run()
    patterns = {_pattern(b.name) for b in view.blocks}
    beside = [part for name, part in view.model.named_modules() if _pattern(name) in patterns]
    shown = [b.block for b in view.blocks]

    def listen(part: nn.Module, args: tuple[Any, ...], context: Mapping[str, Any], y: Any) -> None:
        run.blocks[part] = _call(part, args, context, y)

    def listen_to_model(part: nn.Module, args: tuple[Any, ...], context: Mapping[str, Any], y: Any) -> None:
        run.model = _call(part, args, context, y)

    with ExitStack() as stack, torch.no_grad():
        for part in dict.fromkeys([*shown, *beside]):
            stack.enter_context(hooked(part, listen))
        stack.enter_context(hooked(view.model, listen_to_model))
        model(x)
    return run


def _pattern(name: str) -> str:
    return re.sub(r"\d+", "*", name)


def _call(part: nn.Module, args: tuple[Any, ...], context: Mapping[str, Any], y: Any) -> Call:
    names = tuple(inspect.signature(original_class(part).forward).parameters)[2:]  # without self and x
    first, *others = args or (next(iter(context.values()), None),)
    return Call(first, {**context, **dict(zip(names, others, strict=False))}, y)


@contextmanager
def hooked(module: nn.Module, hook: Callable[..., Any], first: bool = False) -> Iterator[None]:
    """Call ``hook(module, args, kwargs, output)`` after each forward of a module, maybe before all its other hooks."""
    handle = module.register_forward_hook(hook, with_kwargs=True, prepend=first)
    try:
        yield
    finally:
        handle.remove()


@dataclass
class Steps:
    """The tensors that could be seen while a block ran."""

    inputs: dict[nn.Module, list[Tensor]] = field(default_factory=dict)
    """The tensors that each part of the block was called with."""
    tensors: list[Tensor] = field(default_factory=list)
    """All tensors that went into a part or came out of it."""
    attention: list[tuple[tuple[Tensor, Tensor, Tensor], Tensor | None, Tensor]] = field(default_factory=list)
    """The calls of torch's fused attention: (q, k, v), with q scaled as without a ``scale``; mask; result."""

    def has(self, tensor: Tensor) -> bool:
        """Return whether a tensor could be seen."""
        return any(equal(tensor, step) for step in self.tensors)


def steps_of(block: nn.Module, run: Callable[[], Any]) -> Steps:
    """Call ``run``, which runs a block or pieces of it, and record what can be seen of its parts."""
    steps = Steps()

    def listen(part: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], y: Any) -> None:
        given = [t for t in (*args, *kwargs.values()) if isinstance(t, Tensor)]
        steps.inputs.setdefault(part, []).extend(given)
        steps.tensors.extend([*given, *([y] if isinstance(y, Tensor) else [])])

    attention = F.scaled_dot_product_attention

    def attend_and_listen(q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        y = attention(q, k, v, *args, **kwargs)
        scale = kwargs.get("scale")
        same_scale = q if scale is None else q * (scale * q.shape[-1] ** 0.5)
        steps.attention.append(((same_scale, k, v), args[0] if args else kwargs.get("attn_mask"), y))
        steps.tensors.extend([q, k, v, y])
        return y

    with ExitStack() as stack, torch.no_grad():
        for part in block.modules():
            if part is not block:
                stack.enter_context(hooked(part, listen))
        stack.enter_context(mock.patch.object(F, "scaled_dot_product_attention", attend_and_listen))
        run()
    return steps


def equal(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors are the same up to rounding. Those on the meta device are compared by shape."""
    if a.shape != b.shape:
        return False
    if a.is_meta or b.is_meta or not a.numel():
        return True
    return bool((a.double() - b.double()).abs().max() <= TOLERANCE * max(1.0, b.double().abs().max().item()))


def is_training(model: nn.Module) -> bool:
    """Return whether a part of the model may behave in another way at the next call."""
    return any(part.training for part in model.modules())
