"""A layer that computes with its packed weight where that is faster: what all kinds share, and the linear layer."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from threading import RLock
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from plm_core.blocks import Swapped, original_class
from plm_core.errors import NotSupported
from plm_core.packing.operators import ACTIVATIONS, multiply, pack, unpack
from plm_core.packing.parameters import Parameters, version
from plm_core.packing.tuning import Example, bucket, is_faster

_lock = RLock()


@dataclass
class State:
    """The state of a packed layer.

    Attributes:
        tune: Whether the faster way is measured. Otherwise the packed way is taken.
        keep: Whether the plain weight stays beside the packed one.
        dtype: The dtype of the packed weight, in which the layer computes: float32 or bfloat16.
        activation: The name of the activation that the layer computes, see `ACTIVATIONS`; empty for none.
        ways: For each example of an input, whether the packed way is taken.
        weight: The packed weight.
        source: The plain weight that it was made of, if that is kept.
        version: The number of changes of ``source`` then.
    """

    tune: bool
    keep: bool
    dtype: torch.dtype = torch.float32
    activation: str = ""
    ways: dict[Example, bool] = field(default_factory=dict)
    weight: Tensor | None = None
    source: Tensor | None = None
    version: int = 0


class Packed(Swapped):
    """A mixin for the class of a layer. What follows for a kind of layer are the methods that raise."""

    plm_packing: State

    def plm_example(self, x: Tensor) -> Example | None:
        """Return the input that stands for ``x`` when the ways are measured; None if ``x`` is not of the kind."""
        raise NotImplementedError

    def plm_pack(self, weight: Tensor, example: Example) -> Tensor:
        """Return a packed weight that suits such inputs best."""
        raise NotImplementedError

    def plm_plain(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Compute the layer with a plain weight."""
        raise NotImplementedError

    def plm_multiply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Compute the layer with a packed weight, and the activation after it if the layer computes that."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Compute the layer, and the activation after it if the layer computes that.

        The output has the dtype of the input, or inside autocast that of the packed weight.

        Raises:
            NotSupported: The layer is in training mode, or the input requires a gradient, or autocast is on with
                another dtype than that of the packed weight.
        """
        layer: Any = self
        state: State = layer.plm_packing
        if torch.onnx.is_in_onnx_export() or torch._C._get_tracing_state():
            return _plain(layer, x)
        if torch.compiler.is_compiling():
            packed = state.weight is not None
        else:
            _refuse(layer, x)
            packed = x.dtype in (torch.float32, state.dtype) and _way(layer, state, x)
        weight = state.weight if packed else None
        if weight is None:
            return _plain(layer, x)
        y = _product(layer, x, weight, state)
        return y if torch.is_autocast_enabled("cpu") else y.to(x.dtype)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Give copies and pickles the plain weight, which they pack again."""
        new, classes, _ = super().__reduce_ex__(protocol)
        layer: Any = self
        fresh = replace(layer.plm_packing, ways={}, weight=None, source=None)
        return new, classes, self.__dict__ | {"_parameters": layer._parameters.copy(), "plm_packing": fresh}


class PackedLinear(Packed):
    """A mixin for the class of a linear layer: [..., D_in] -> [..., D_out]."""

    def plm_example(self, x: Tensor) -> Example | None:
        """Return as many rows as the bucket of those of ``x`` says."""
        width = x.shape[-1] if x.ndim else 0
        return Example((bucket(x.numel() // max(width, 1)), width))

    def plm_pack(self, weight: Tensor, example: Example) -> Tensor:
        """Return a packed weight."""
        return pack(weight, example.shape[0])

    def plm_plain(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Compute the layer with a plain weight."""
        return F.linear(x, weight, bias)

    def plm_multiply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Compute the layer with a packed weight."""
        return multiply(x, weight, bias, self.plm_packing.activation)


def settle(layer: nn.Module) -> None:
    """Make the plain weight the weight of a layer again, as before it was packed."""
    with _lock:
        layer.__dict__["_parameters"] = layer._parameters.copy()


def _product(layer: Any, x: Tensor, weight: Tensor, state: State) -> Tensor:
    bias = None if layer.bias is None else layer.bias.to(state.dtype)
    y: Tensor = layer.plm_multiply(x.to(state.dtype), weight, bias)
    return y


def _plain(layer: Any, x: Tensor) -> Tensor:
    if torch.is_autocast_enabled("cpu"):  # a layer that was found to be faster in its own dtype
        with torch.autocast("cpu", enabled=False):
            return _plain(layer, x.to(layer.weight.dtype))
    y: Tensor = original_class(layer).forward(layer, x)
    activation = layer.plm_packing.activation
    return ACTIVATIONS[activation](y) if activation else y


def _refuse(layer: Any, x: Tensor) -> None:
    if layer.training:
        raise NotSupported("a packed model computes no gradients: call model.eval(), or remove the transform 'packed'")
    if x.requires_grad and torch.is_grad_enabled():
        raise NotSupported(
            "a packed model computes no gradients: call it inside torch.inference_mode(), or remove the transform "
            "'packed'"
        )
    dtype = layer.plm_packing.dtype
    if torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") is not dtype:
        raise NotSupported(
            f"a model that is packed in {name_of(dtype)} cannot be called inside autocast with "
            f"{name_of(torch.get_autocast_dtype('cpu'))}: apply 'packed' with dtype='bf16' for autocast with bfloat16"
        )


def _way(layer: Any, state: State, x: Tensor) -> bool:
    """Return whether the packed way is taken for an input, after the weight is packed as it is now."""
    if _is_new(layer, state):
        with _lock:
            if _is_new(layer, state):
                _renew(layer, state)
    example = layer.plm_example(x)
    if example is None:
        return False
    way = state.ways.get(example)
    if way is None:
        with _lock:
            way = state.ways[example] = _choose(layer, state, example)
            _drop(layer, state)
    return way


def _is_new(layer: Any, state: State) -> bool:
    """Return whether the weight is another one than that which was packed last, or was asked for since."""
    parameters = layer._parameters
    weight: Tensor | None = parameters.held() if isinstance(parameters, Parameters) else layer.weight
    return weight is not None and (weight is not state.source or version(weight) != state.version)


def _renew(layer: Any, state: State) -> None:
    """Take the plain weight as it is now."""
    weight = layer.weight
    state.source, state.version = weight, version(weight)
    if state.weight is None or not _equal(unpack(state.weight), weight.to(state.dtype)):
        state.weight, state.ways = None, {}
    else:
        _drop(layer, state)


def _choose(layer: Any, state: State, example: Example) -> bool:
    """Choose the way for inputs that an example stands for."""
    dense = layer.weight
    if dense.device.type != "cpu" or dense.dtype is not torch.float32:
        return False
    known = state.weight
    weight = layer.plm_pack(dense.to(state.dtype), example) if known is None else known
    packed = not state.tune or _is_faster(layer, state, weight, dense, example)
    if packed:
        state.weight = weight
    return packed


def _is_faster(layer: Any, state: State, weight: Tensor, dense: Tensor, example: Example) -> bool:
    bias, activation = layer.bias, state.activation

    def plain(x: Tensor) -> Tensor:
        y: Tensor = layer.plm_plain(x, dense, bias)
        return ACTIVATIONS[activation](y) if activation else y

    def packed(x: Tensor) -> Tensor:
        return _product(layer, x, weight, state)

    kind = (layer.extra_repr(), bias is not None, activation, state.dtype)
    return is_faster(packed, plain, example, *kind)


def _drop(layer: Any, state: State) -> None:
    """Drop the plain weight if every way so far takes the packed one."""
    if state.keep or state.weight is None or not state.ways or not all(state.ways.values()):
        return
    parameters = layer._parameters
    if not isinstance(parameters, Parameters):
        parameters = layer.__dict__["_parameters"] = Parameters(parameters)
    parameters.packed, state.source = state.weight, None
    parameters.drop()


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.device == b.device and a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)


def name_of(dtype: torch.dtype) -> str:
    """Return the name of a dtype, such as bfloat16."""
    return str(dtype).removeprefix("torch.")


def has_changes(module: nn.Module) -> bool:
    """Return whether a module has hooks, or a forward that is not its class's."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks) or "forward" in module.__dict__
