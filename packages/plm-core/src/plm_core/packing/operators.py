"""Products and convolutions with packed weights, as operators that torch.compile and torch.export see as one step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

from plm_core.utils.text import first_line

_ATTRIBUTES = MappingProxyType({"": ("none", ""), "relu": ("relu", ""), "silu": ("swish", "")})
_ATTRIBUTES_OF_GELU = MappingProxyType({"gelu": ("gelu", "none"), "gelu_tanh": ("gelu", "tanh")})
ACTIVATIONS: MappingProxyType[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {
        "relu": F.relu,
        "silu": F.silu,
        "gelu": F.gelu,
        "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    }
)
"""The activations that a product can end with, by the name that `multiply` takes."""
_KERNELS = {**_ATTRIBUTES, **_ATTRIBUTES_OF_GELU}

# torch.compile cannot take oneDNN's own operator, whose weight it wants to be a constant. It takes this one as it is.
_library = torch.library.Library("plm_core", "DEF")
_library.define("packed_linear(Tensor x, Tensor weight, Tensor? bias, str activation) -> Tensor")
_library.define(
    "packed_conv2d(Tensor x, Tensor weight, Tensor? bias, int[] padding, int[] stride, int[] dilation, int groups)"
    " -> Tensor"
)


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    attribute, algorithm = _KERNELS[activation]
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, attribute, [], algorithm)
    return y


def _shape(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def _convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    padding: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    y: Tensor = torch.ops.mkldnn._convolution_pointwise(
        x, weight, bias, padding, stride, dilation, groups, "none", [], ""
    )
    return y


def _shape_of_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    padding: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    plain = x.new_empty(weight.shape)
    return F.conv2d(x, plain, None, stride, padding, dilation, groups).contiguous(memory_format=torch.channels_last)


for key in ("CPU", "MkldnnCPU"):  # those of the input and of the weight
    _library.impl("packed_linear", _multiply, key)
    _library.impl("packed_conv2d", _convolve, key)
torch.library.register_fake("plm_core::packed_linear", _shape)
torch.library.register_fake("plm_core::packed_conv2d", _shape_of_convolution)


def pack(weight: Tensor, rows: int) -> Tensor:
    """Return a weight [D_out, D_in] in oneDNN's blocked order, as an opaque tensor for `multiply`.

    Args:
        weight: A dense weight on the CPU, float32 or bfloat16.
        rows: The number of rows of the inputs for which the order should suit best. Every other number is right, too.
    """
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), rows)
    return packed


def pack_convolution(
    weight: Tensor,
    shape: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Return a weight [C_out, C_in / groups, k, k'] in oneDNN's blocked order, as an opaque tensor for `convolve`.

    Args:
        weight: A dense weight on the CPU, float32.
        shape: The shape of the inputs for which the order should suit best. Every other shape is right, too.
        padding: See `convolve` for this and the rest.
        stride: See there.
        dilation: See there.
        groups: See there.
    """
    reorder = torch.ops.aten.mkldnn_reorder_conv2d_weight
    packed: Tensor = reorder(weight.detach().to_mkldnn(), padding, stride, dilation, groups, shape)
    return packed


def convolve(
    x: Tensor,
    packed: Tensor,
    bias: Tensor | None,
    padding: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """Compute a convolution: [B, C_in, H, W] -> [B, C_out, H', W'], whose channels are last in memory.

    Args:
        x: The input, on the CPU, float32.
        packed: The weight as `pack_convolution` returned it.
        bias: [C_out], or None.
        padding: Pixels at each side.
        stride: The step in pixels.
        dilation: The distance of the taps in pixels.
        groups: Groups of channels.
    """
    y: Tensor = torch.ops.plm_core.packed_conv2d(x, packed, bias, padding, stride, dilation, groups)
    return y


def unpack(packed: Tensor) -> Tensor:
    """Return the dense weight of which a packed one was made, bit for bit."""
    return packed.to_dense()


def multiply(x: Tensor, packed: Tensor, bias: Tensor | None, activation: str = "") -> Tensor:
    """Compute ``activation(x W^T + bias)``: [..., D_in] -> [..., D_out].

    Args:
        x: The input, on the CPU, of the dtype of ``packed``.
        packed: The weight as `pack` returned it.
        bias: [D_out] of the same dtype, or None.
        activation: A name of `ACTIVATIONS`, or an empty text for none.
    """
    y: Tensor = torch.ops.plm_core.packed_linear(x, packed, bias, activation)
    return y


@cache
def missing(dtype: torch.dtype = torch.float32) -> str:
    """Return why this torch cannot multiply packed weights of a dtype, or an empty text.

    The operators are no documented part of torch. So they are looked for, and their answers are compared once.
    """
    if not torch.backends.mkldnn.is_available():
        return "this torch was built without oneDNN"
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*shape, generator=generator).to(dtype) for shape in ((5, 40), (24, 40), (24,)))
    tolerance = 1e-5 if dtype is torch.float32 else 0.1
    try:
        if dtype is torch.float32 and (why := _wrong_convolution(generator)):
            return why
        packed = pack(weight, 5)
        if not torch.equal(unpack(packed), weight):
            return "a weight that is packed and unpacked differs"
        for activation in ("", *ACTIVATIONS):
            expected = F.linear(x.float(), weight.float(), bias.float())
            if activation:
                expected = ACTIVATIONS[activation](expected)
            answer = multiply(x, packed, bias, activation).float()
            if not torch.allclose(answer, expected, atol=tolerance, rtol=1e-5):
                return f"the operator answers wrongly (activation: {activation or 'none'})"
    except (AttributeError, RuntimeError, NotImplementedError) as e:
        return f"this torch lacks the operators ({first_line(e)})"
    return ""


def _wrong_convolution(generator: torch.Generator) -> str:
    """Return what is wrong with the convolution with a packed weight, or an empty text."""
    x, weight, bias = (torch.randn(*shape, generator=generator) for shape in ((2, 8, 9, 7), (12, 4, 3, 3), (12,)))
    geometry = ([1, 1], [2, 2], [1, 1], 2)
    packed = pack_convolution(weight, x.shape, *geometry)
    if not torch.equal(unpack(packed), weight):
        return "a weight that is packed and unpacked differs"
    expected = F.conv2d(x, weight, bias, 2, 1, 1, 2)
    if not torch.allclose(convolve(x, packed, bias, *geometry), expected, atol=1e-5, rtol=1e-5):
        return "the operator for convolutions answers wrongly"
    return ""
