"""What each operation of an exported program does to labels (see `zipit.tracing.labels`).

A rule takes a `Call` and returns the labels of its output, or a list of them for several outputs. An operation that has
no rule leaves its output without features, and fixes those of its inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zipit.tracing.labels import Features, Ints, Labels, elementwise, in_order, joined, reduced, reshaped

Result = Labels | list[Any]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Call:
    """A call of an operation.

    Attributes:
        features: The labels that were given out, and the traces.
        args: The arguments by name, with `Labels` in place of tensors. Those that are left out have their defaults.
        shape: The shape of the output, or a list with that of each of several.
    """

    features: Features
    args: Mapping[str, Any]
    shape: Any

    def __getitem__(self, name: str) -> Any:
        return self.args[name]

    def get(self, name: str) -> Any:
        """Return an argument, or None if the operation has none of this name."""
        return self.args.get(name)

    @property
    def tensors(self) -> list[Labels]:
        """Return the arguments that are tensors."""
        flat: list[Any] = []
        for value in self.args.values():
            flat += value if isinstance(value, list | tuple) else [value]
        return [x for x in flat if isinstance(x, Labels)]

    def outputs(self, make: Callable[[Shape], Labels]) -> Result:
        """Return what a function makes of the shape of the output, or of those of several."""
        if isinstance(self.shape, list):
            return [None if shape is None else make(shape) for shape in self.shape]
        return make(self.shape)


Rule = Callable[[Call], Result]


# --- elementwise ----------------------------------------------------------------------------------------------------


def pointwise(call: Call) -> Result:
    """A function of single places."""
    return elementwise(call.features, *call.tensors)


def first(call: Call) -> Result:
    """A function of single places of the first argument alone, or one that copies it."""
    x = call.tensors[0]
    return Labels(x.shape, x.arrays, x.weight)


def prelu(call: Call) -> Result:
    """A function of single places with a slope for each channel."""
    x, slope = call.tensors
    return elementwise(call.features, x, _at(slope, 1, x.ndim))


def norm_of_batch(call: Call) -> Result:
    """A norm with statistics of each channel."""
    x = call["input"]
    tables = [call[name] for name in ("weight", "bias", "running_mean", "running_var") if call[name] is not None]
    for table in tables:
        x = elementwise(call.features, x, _at(table, 1, x.ndim))
    return x


def norm_of_layer(call: Call) -> Result:
    """A norm over the last dimensions."""
    x = call["input"]
    dims = range(x.ndim - len(call["normalized_shape"]), x.ndim)
    x = reduced(call.features, x, dims, keep=True)
    tables = [call.get(name) for name in ("weight", "bias")]
    return elementwise(call.features, x, *(table for table in tables if table is not None))


def norm_of_groups(call: Call) -> Result:
    """A norm over groups of channels."""
    x = call["input"]
    grouped = (x.shape[0], call["num_groups"], x.shape[1] // call["num_groups"], *x.shape[2:])
    y = reduced(call.features, reshaped(call.features, x, grouped), range(2, len(grouped)), keep=True)
    y = reshaped(call.features, y, x.shape)
    tables = [_at(call[name], 1, x.ndim) for name in ("weight", "bias") if call[name] is not None]
    return elementwise(call.features, y, *tables)


def _at(table: Labels, dim: int, ndim: int) -> Labels:
    """Return the labels of a table for one dimension as those of a tensor that broadcasts."""
    shape = tuple(size if d == dim else 1 for d, size in enumerate([table.shape[0]] * ndim))
    return Labels(shape, tuple(x.reshape(shape) for x in table.arrays), table.weight)


# --- products -------------------------------------------------------------------------------------------------------


def linear(call: Call) -> Result:
    """[..., in] and [out, in] -> [..., out]."""
    x, weight = call["input"], call["weight"]
    _consume(call.features, weight, -1)
    y = _product(call.features, x, _swapped(weight))
    bias = call.get("bias")
    return y if bias is None else elementwise(call.features, y, bias)


def matmul(call: Call) -> Result:
    """[..., n, k] and [..., k, m] -> [..., n, m], and the same for vectors."""
    one, other = call.tensors[:2]
    if one.ndim == 1:
        one = reshaped(call.features, one, (1, *one.shape))
    if other.ndim == 1:
        other = reshaped(call.features, other, (*other.shape, 1))
    if one.weight != other.weight:
        _consume(call.features, *((one, -1) if one.weight else (other, -2)))
    return reshaped(call.features, _product(call.features, one, other), call.shape)


def added_product(call: Call) -> Result:
    """A product of matrices that is added to a tensor."""
    added, one, other = call.tensors[:3]
    if one.weight != other.weight:
        _consume(call.features, *((one, -1) if one.weight else (other, -2)))
    return elementwise(call.features, added, _product(call.features, one, other))


def einsum(call: Call) -> Result:
    """A sum of products by a formula."""
    inputs, _, output = call["equation"].replace(" ", "").partition("->")
    formulas = inputs.split(",")
    operands = call["tensors"]
    letters = "".join(dict.fromkeys("".join(formulas)))
    if "." in letters or any(len(set(formula)) < len(formula) for formula in formulas):
        return unknown(call)
    weights = [operand.weight for operand in operands]
    spread = []
    for formula, operand in zip(formulas, operands, strict=True):
        if operand.weight and not all(weights):
            for dim, letter in enumerate(formula):
                if letter not in output:
                    _consume(call.features, operand, dim)
        order = [formula.index(letter) for letter in letters if letter in formula]
        sizes = iter(operand.shape[dim] for dim in order)
        shape = [next(sizes) if letter in formula else 1 for letter in letters]
        turned = operand.moved(lambda x, order=order: x.transpose(order))
        spread.append(reshaped(call.features, turned, shape))
    y = elementwise(call.features, *spread)
    y = reduced(call.features, y, [dim for dim, letter in enumerate(letters) if letter not in output])
    kept = [letter for letter in letters if letter in output]
    y = reshaped(call.features, y, [y.shape[letters.index(letter)] for letter in kept])
    return y.moved(lambda x: x.transpose([kept.index(letter) for letter in output]))


def attention(call: Call) -> Result:
    """Queries [..., n, k], keys [..., m, k] and values [..., m, d] -> [..., n, d]."""
    q, k, v = call["query"], call["key"], call["value"]
    if q.shape[:-2] != k.shape[:-2]:
        return unknown(call)
    scores = _product(call.features, q, _swapped(k))
    if call.get("attn_mask") is not None:
        scores = elementwise(call.features, scores, call["attn_mask"])
    return _product(call.features, reduced(call.features, scores, [-1], keep=True), v)


def _product(features: Features, one: Labels, other: Labels) -> Labels:
    """[..., n, k] and [..., k, m] -> [..., n, m]: a product of places, and a sum over k."""
    left = one.moved(lambda x: x[..., None])
    right = other.moved(lambda x: x[..., None, :, :])
    y = reduced(features, elementwise(features, left, right), [-2])
    return y.moved(lambda x: x[..., 0, :])


def _swapped(x: Labels) -> Labels:
    return x.moved(lambda y: y.swapaxes(-1, -2))


def _consume(features: Features, weight: Labels, dim: int) -> None:
    labels = weight.of(dim)
    if labels is not None:
        features.consume(labels)


# --- convolutions ---------------------------------------------------------------------------------------------------


def convolution(call: Call) -> Result:
    """[B, in, *] and [out, in / groups, *] -> [B, out, *]."""
    weight = _without_kernel(call.features, call["weight"])
    _consume(call.features, weight, 1)
    if call["groups"] == 1:
        out = _product(call.features, _channels(call), _swapped(weight)).of(-1)
    else:
        out = _of_groups(call.features, _channels(call).of(1), weight, call["groups"])
    return _convolved(call, out)


def transposed_convolution(call: Call) -> Result:
    """[B, in, *] and [in, out / groups, *] -> [B, out, *]."""
    if call["groups"] != 1:
        return unknown(call)
    weight = _without_kernel(call.features, call["weight"])
    _consume(call.features, weight, 0)
    return _convolved(call, _product(call.features, _channels(call), weight).of(-1))


def _without_kernel(features: Features, weight: Labels) -> Labels:
    """Return the labels of a weight [out, in, *] as of [out, in]."""
    flat = in_order(features, weight, range(2, weight.ndim))
    return Labels(flat.shape[:2], tuple(x.reshape(x.shape[:2]) for x in flat.arrays), flat.weight)


def _channels(call: Call) -> Labels:
    """Return the labels of the input's channels as of [1, in]."""
    x = in_order(call.features, call["input"], [dim for dim in range(call["input"].ndim) if dim != 1])
    return Labels((1, x.shape[1]), tuple(y.reshape(1, -1) for y in x.arrays), x.weight)


def _convolved(call: Call, out: Ints | None) -> Result:
    shape = [-1 if dim == 1 else 1 for dim in range(len(call.shape))]
    y = Labels(call.shape, () if out is None else (out.reshape(shape),), call["input"].weight)
    return y if call["bias"] is None else elementwise(call.features, y, _at(call["bias"], 1, y.ndim))


def _of_groups(features: Features, ins: Ints | None, weight: Labels, groups: int) -> Ints | None:
    """Return the output channels of a grouped convolution. They are in blocks with the inputs of their group."""
    outs, inner = weight.of(0), weight.of(1)
    if ins is None or outs is None:
        for x in (ins, outs, inner):
            if x is not None:
                features.fix(x)
        return outs
    ins, outs = ins.reshape(groups, -1), outs.reshape(groups, -1)
    if inner is not None:
        features.grouped.append((inner.ravel(), ins))
    if ins.shape[1] == outs.shape[1] == 1:
        features.join(ins, outs)
    elif ins.shape[1] == 1:
        features.own(outs, ins)
    else:
        owners = features.new([groups, 1])
        features.own(ins, owners)
        features.own(outs, owners)
    return outs.ravel()


# --- along dimensions -----------------------------------------------------------------------------------------------


def statistic(call: Call) -> Result:
    """A sum, a mean or another statistic over dimensions."""
    x = call.tensors[0]
    if len(call.tensors) > 1:  # the larger of two tensors
        return pointwise(call)
    dims = call.get("dim")
    if dims is None or dims == []:
        dims = range(x.ndim)
    y = reduced(call.features, x, [dims] if isinstance(dims, int) else dims)
    return call.outputs(lambda shape: reshaped(call.features, y, shape))


def softmax(call: Call) -> Result:
    """A function along one dimension with an output for each place, in which the order is of no matter."""
    return reduced(call.features, call.tensors[0], [call["dim"]], keep=True)


def neighbours(dims: int) -> Rule:
    """Return the rule of an operation on neighbours along the last dimensions."""

    def rule(call: Call) -> Result:
        x = call.tensors[0]
        y = in_order(call.features, x, range(x.ndim - dims, x.ndim))
        return call.outputs(lambda shape: Labels(shape, y.arrays, y.weight))

    return rule


def pad(call: Call) -> Result:
    """A padding of the last dimensions. What is added to features stays where it is."""
    x, pads = call.tensors[0], call["pad"]
    for dim in range(x.ndim - 1, x.ndim - 1 - len(pads) // 2, -1):
        before, after = pads[2 * (x.ndim - 1 - dim)], pads[2 * (x.ndim - 1 - dim) + 1]
        part = _trimmed(x, dim, -before, -after)
        ends = [_one_place(x.shape, dim, max(size, 0)) for size in (before, after)]
        parts = [Labels(ends[0]), part, Labels(ends[1])]
        if before or after:
            x = joined(call.features, [p for p in parts if p.shape[dim]], dim)
    return x


def _trimmed(x: Labels, dim: int, before: int, after: int) -> Labels:
    """Cut places off the ends of a dimension, where the numbers are above zero."""
    kept = slice(max(before, 0), x.shape[dim] - max(after, 0))
    shape = _one_place(x.shape, dim, len(range(x.shape[dim])[kept]))
    where = (*(slice(None),) * dim, kept)
    return Labels(shape, tuple(y[where] if y.shape[dim] > 1 else y for y in x.arrays), x.weight)


def _one_place(shape: Sequence[int], dim: int, size: int) -> tuple[int, ...]:
    return tuple(size if d == dim else n for d, n in enumerate(shape))


def reshape(call: Call) -> Result:
    """The same values in another shape."""
    return reshaped(call.features, call.tensors[0], call.shape)


def expand(call: Call) -> Result:
    """Copies along dimensions of size 1, and new ones in front."""
    x = call.tensors[0]
    lead = (1,) * (len(call.shape) - x.ndim)
    same = frozenset(dim for dim, size in enumerate((*lead, *x.shape)) if size == 1)
    return Labels(call.shape, tuple(y.reshape(*lead, *y.shape) for y in x.arrays), x.weight, same)


def permute(call: Call) -> Result:
    """Dimensions in another order."""
    return call.tensors[0].moved(lambda x: x.transpose(call["dims"]))


def transpose(call: Call) -> Result:
    """Two dimensions changed with each other."""
    return call.tensors[0].moved(lambda x: x.swapaxes(call["dim0"], call["dim1"]))


def transposed(call: Call) -> Result:
    """A matrix with rows for columns."""
    return call.tensors[0].moved(lambda x: x.T)


def roll(call: Call) -> Result:
    """Places moved along dimensions."""
    return call.tensors[0].moved(lambda x: np.roll(x, call["shifts"], call["dims"] or None))


def flip(call: Call) -> Result:
    """Places in reverse order along dimensions."""
    return call.tensors[0].moved(lambda x: np.flip(x, call["dims"]))


def repeat(call: Call) -> Result:
    """Copies of all places along dimensions."""
    x = call.tensors[0]
    lead = (1,) * (len(call.shape) - x.ndim)
    arrays = [y.reshape(*lead, *y.shape) for y in x.arrays]
    times = [[n if size > 1 else 1 for n, size in zip(call["repeats"], y.shape, strict=True)] for y in arrays]
    return Labels(call.shape, tuple(np.tile(y, n) for y, n in zip(arrays, times, strict=True)), x.weight)


def cut(call: Call) -> Result:
    """Some places along a dimension."""
    x, dim = call.tensors[0], call["dim"] % call.tensors[0].ndim
    where = slice(call["start"], call["end"], call["step"])
    arrays = tuple(y[(*(slice(None),) * dim, where)] if y.shape[dim] > 1 else y for y in x.arrays)
    return Labels(call.shape, arrays, x.weight)


def select(call: Call) -> Result:
    """One place along a dimension."""
    x, dim, index = call.tensors[0], call["dim"], call["index"]
    return Labels(call.shape, tuple(_taken(y, index, dim) for y in x.arrays), x.weight)


def _taken(x: Ints, index: int, dim: int) -> Ints:
    return np.asarray(x.take(index if x.shape[dim] > 1 else 0, dim))


def split(call: Call) -> Result:
    """Parts along a dimension, one after another."""
    x, dim = call.tensors[0], call["dim"] % call.tensors[0].ndim
    parts: list[Any] = []
    start = 0
    for shape in call.shape:
        where = (*(slice(None),) * dim, slice(start, start + shape[dim]))
        parts.append(Labels(shape, tuple(y[where] if y.shape[dim] > 1 else y for y in x.arrays), x.weight))
        start += shape[dim]
    return parts


def unbind(call: Call) -> Result:
    """All places along a dimension, as tensors of their own."""
    x, dim = call.tensors[0], call["dim"]
    return [Labels(shape, tuple(_taken(y, i, dim) for y in x.arrays), x.weight) for i, shape in enumerate(call.shape)]


def cat(call: Call) -> Result:
    """Tensors one after another along a dimension."""
    return joined(call.features, call.tensors, call["dim"])


def stack(call: Call) -> Result:
    """Tensors one after another along a new dimension."""
    dim = call["dim"] % len(call.shape)
    return joined(call.features, [x.moved(lambda y: np.expand_dims(y, dim)) for x in call.tensors], dim)


def index(call: Call) -> Result:
    """Places of one dimension by their numbers, which a tensor holds."""
    x = call.tensors[0]
    indexed = [dim for dim, numbers in enumerate(call["indices"]) if numbers is not None]
    if len(indexed) != 1:
        return unknown(call)
    return _looked_up(call, x, indexed[0], call["indices"][indexed[0]].ndim)


def index_select(call: Call) -> Result:
    """Places of a dimension by their numbers."""
    return _looked_up(call, call.tensors[0], call["dim"], 1)


def embedding(call: Call) -> Result:
    """Rows of a table by their numbers."""
    return _looked_up(call, call["weight"], 0, call["indices"].ndim)


def _looked_up(call: Call, x: Labels, dim: int, ndim: int) -> Labels:
    dim %= x.ndim
    y = in_order(call.features, x, [dim])
    shape = [(*a.shape[:dim], *(1,) * ndim, *a.shape[dim + 1 :]) for a in y.arrays]
    return Labels(call.shape, tuple(a.reshape(n) for a, n in zip(y.arrays, shape, strict=True)), x.weight)


def pixel_shuffle(call: Call) -> Result:
    """[..., C r r, H, W] -> [..., C, H r, W r]."""
    x, r = call.tensors[0], call["upscale_factor"]
    *lead, channels, rows, columns = x.shape
    n = len(lead)
    y = reshaped(call.features, x, (*lead, channels // r**2, r, r, rows, columns))
    order = (*range(n + 1), n + 3, n + 1, n + 4, n + 2)
    return reshaped(call.features, y.moved(lambda a: a.transpose(order)), call.shape)


def nothing(call: Call) -> Result:
    """A new tensor, or a check."""
    return call.outputs(lambda shape: Labels(shape))


def unknown(call: Call) -> Result:
    """An operation whose features are not followed."""
    for x in call.tensors:
        for array in x.arrays:
            call.features.fix(array)
    return nothing(call)


def _named(rule: Rule, names: str) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


RULES: Mapping[str, Rule] = {
    **_named(
        pointwise,
        "add sub rsub mul div true_divide pow minimum maximum where masked_fill clamp clamp_min clamp_max lerp addcmul "
        "eq ne lt le gt ge logical_and logical_or bitwise_and bitwise_or atan2 fmod remainder copy _prelu_kernel",
    ),
    **_named(
        first,
        "relu gelu silu mish elu celu selu leaky_relu relu6 hardtanh hardswish hardsigmoid sigmoid tanh softplus "
        "log_sigmoid logit exp expm1 log log1p log2 sqrt rsqrt abs neg reciprocal square sin cos tan erf sign floor "
        "ceil softsign round isnan isinf logical_not bitwise_not dropout feature_dropout alpha_dropout clone "
        "contiguous to _to_copy type_as float alias detach lift_fresh_copy rrelu threshold hardshrink softshrink "
        "tanhshrink nan_to_num bernoulli",
    ),
    **_named(prelu, "prelu"),
    **_named(norm_of_batch, "batch_norm _native_batch_norm_legit_no_training instance_norm"),
    **_named(norm_of_layer, "layer_norm native_layer_norm rms_norm _fused_rms_norm"),
    **_named(norm_of_groups, "group_norm native_group_norm"),
    **_named(softmax, "softmax _softmax log_softmax _log_softmax"),
    **_named(linear, "linear"),
    **_named(matmul, "matmul mm bmm mv dot"),
    **_named(added_product, "addmm baddbmm addbmm"),
    **_named(einsum, "einsum"),
    **_named(attention, "scaled_dot_product_attention"),
    **_named(convolution, "conv1d conv2d conv3d"),
    **_named(transposed_convolution, "conv_transpose1d conv_transpose2d conv_transpose3d"),
    **_named(statistic, "mean sum amax amin max var std var_mean std_mean norm linalg_vector_norm logsumexp prod"),
    **_named(neighbours(1), "max_pool1d avg_pool1d adaptive_avg_pool1d adaptive_max_pool1d"),
    **_named(
        neighbours(2),
        "max_pool2d avg_pool2d adaptive_avg_pool2d adaptive_max_pool2d max_pool2d_with_indices upsample_bilinear2d "
        "upsample_nearest2d upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa grid_sampler",
    ),
    **_named(neighbours(3), "max_pool3d avg_pool3d adaptive_avg_pool3d upsample_trilinear3d upsample_nearest3d"),
    **_named(pad, "pad constant_pad_nd"),
    **_named(reshape, "view reshape flatten unflatten squeeze unsqueeze _unsafe_view view_as reshape_as"),
    **_named(expand, "expand expand_as broadcast_to"),
    **_named(permute, "permute"),
    **_named(transpose, "transpose swapaxes"),
    **_named(transposed, "t numpy_T"),
    **_named(roll, "roll"),
    **_named(flip, "flip"),
    **_named(repeat, "repeat"),
    **_named(cut, "slice narrow_copy"),
    **_named(select, "select"),
    **_named(split, "split split_with_sizes chunk tensor_split"),
    **_named(unbind, "unbind"),
    **_named(cat, "cat concat concatenate"),
    **_named(stack, "stack"),
    **_named(index, "index"),
    **_named(index_select, "index_select"),
    **_named(embedding, "embedding"),
    **_named(pixel_shuffle, "pixel_shuffle"),
    **_named(
        nothing,
        "_assert_tensor_metadata arange zeros ones full empty zeros_like ones_like full_like empty_like new_zeros "
        "new_ones new_full rand randn linspace scalar_tensor meshgrid promote_types sym_size eye tril triu",
    ),
}
"""The rule of each operation of torch's library, by its name. One that works in place has the same."""
