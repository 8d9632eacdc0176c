"""The program of a model, as torch.export records it, and the labels of everything in it."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from plm_core import InputError, NotSupported
from zipit.tracing.labels import Features, Ints, Labels, covers
from zipit.tracing.rules import RULES, Call, unknown

KERNELS = (nn.modules.conv._ConvNd,)
"""The modules whose weights have dimensions without features after the first two."""


@dataclass
class Trace:
    """A program with labels.

    Attributes:
        program: The program.
        features: The labels that were given out, and the traces of all operations.
        values: The labels of the output of each node: `Labels`, or a list for several tensors.
        tensors: The labels of each parameter and buffer along each of its dimensions, or None for a dimension without.
        unknown: Operations that no rule follows, with the names of their modules.
        placeholders: The nodes of the parameters and buffers.
    """

    program: Any
    features: Features = field(default_factory=Features)
    values: dict[Node, Any] = field(default_factory=dict)
    tensors: dict[str, list[Ints | None]] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)
    placeholders: dict[str, Node] = field(default_factory=dict)

    @property
    def nodes(self) -> list[Node]:
        """Return the nodes of the program, in the order of their execution."""
        return list(self.program.graph.nodes)


def trace(model: nn.Module, example: Tensor | tuple[Any, ...]) -> Trace:
    """Record the program of a model, and follow the features through it.

    Args:
        model: The model. It is recorded in eval mode, and is in its own mode again after that.
        example: An input, or a tuple of all inputs. Two images or more keep the batch apart from what has size 1.

    Raises:
        InputError: The model is no module, or the example is a list.
        NotSupported: torch.export cannot record the model.
    """
    inputs = arguments_of(model, example)
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.inference_mode(False), torch.enable_grad():  # otherwise the change of mode is recorded
            program = torch.export.export(model, inputs, strict=False)
    except Exception as e:  # torch raises errors of many kinds
        line = next((line.strip() for line in str(e).splitlines() if line.strip()), type(e).__name__)
        raise NotSupported(
            f"model {type(model).__name__} cannot be traced: {line}; if only its end depends on values, merge the part "
            "before it"
        ) from e
    finally:
        for module in training:
            module.training = True
    traced = Trace(program)
    _follow(traced, model)
    return traced


def arguments_of(model: nn.Module, example: Tensor | tuple[Any, ...]) -> tuple[Any, ...]:
    """Return all inputs of a model for an example, which is one input or a tuple of all.

    Raises:
        InputError: The model is no module, or the example is a list, such as one of batches.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"model is a {type(model).__name__}; a single module is expected")
    if isinstance(example, list):
        raise InputError("example is a list; an input, or a tuple of all inputs, is expected")
    return example if isinstance(example, tuple) else (example,)


def module_of(node: Node) -> str:
    """Return the name of the module in which a node runs, or "" for the model itself."""
    stack = node.meta.get("nn_module_stack") or {}
    return str(next(reversed(stack.values()))[0]) if stack else ""


def modules_of(node: Node) -> list[str]:
    """Return the names of all modules in which a node runs, the outermost first."""
    return [str(name) for name, _ in (node.meta.get("nn_module_stack") or {}).values()]


def _follow(traced: Trace, model: nn.Module) -> None:
    signature = traced.program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    constants = set(signature.non_persistent_buffers)
    for node in traced.nodes:
        if node.op == "placeholder":
            name = names.get(node.name)
            known = name is not None and name not in constants
            given = node.name in signature.user_inputs
            traced.values[node] = _parameter(traced, model, name, node) if known and name else _plain(node, not given)
        elif node.op == "call_function":
            traced.values[node] = _called(traced, node)
        elif node.op == "output":
            for output in node.all_input_nodes:
                _fix(traced, traced.values.get(output))


def _plain(node: Node, weight: bool) -> Any:
    """Return the labels of a node without features."""
    shape = _shape(node.meta.get("val"))
    return Labels(shape, (), weight) if isinstance(shape, tuple) else shape


def _shape(value: Any) -> Any:
    """Return the shape of a tensor, a list of those of several, or None."""
    if isinstance(value, Tensor):
        return tuple(int(size) for size in value.shape)
    return [_shape(part) for part in value] if isinstance(value, list | tuple) else None


def _parameter(traced: Trace, model: nn.Module, name: str, node: Node) -> Labels:
    """Give labels to a parameter or buffer, along each dimension on which features can lie."""
    value = node.meta["val"]
    shape = tuple(int(size) for size in value.shape)
    owner = model.get_submodule(name.rpartition(".")[0])
    dims = 2 if isinstance(owner, KERNELS) and len(shape) > 2 else len(shape)
    along = [
        traced.features.new([size]) if value.is_floating_point() and size > 1 and dim < dims else None
        for dim, size in enumerate(shape)
    ]
    traced.tensors[name] = along
    traced.placeholders[name] = node
    arrays = tuple(
        labels.reshape([-1 if d == dim else 1 for d in range(len(shape))])
        for dim, labels in enumerate(along)
        if labels is not None
    )
    return Labels(shape, arrays, True)


def _called(traced: Trace, node: Node) -> Any:
    if node.target is operator.getitem:
        source: Any = node.args[0]
        place: Any = node.args[1]
        values = traced.values[source]
        return values[place] if isinstance(values, list) else values
    shape = _shape(node.meta.get("val"))
    schema = getattr(node.target, "_schema", None)
    name = str(schema.name).rpartition("::")[2] if schema else str(node.target)
    rule = RULES.get(name) or RULES.get(name.rstrip("_"))
    args = _arguments(traced, node, schema)
    call = Call(traced.features, args, shape)
    try:
        if rule is not None:
            return _settled(traced.features, rule(call))
    except (ArithmeticError, LookupError, TypeError, ValueError):  # a form of the operation that its rule does not know
        pass
    if any(x.arrays for x in call.tensors):
        traced.unknown.setdefault(name, module_of(node))
    return unknown(call)


def _settled(features: Features, value: Any) -> Any:
    """Fix the features that a tensor has on no dimension, such as a position that was cut out of a table.

    Otherwise each sum would add the arrays of its inputs, which share no dimension, and they would double with depth.
    """
    if isinstance(value, list):
        return [_settled(features, part) for part in value]
    if not isinstance(value, Labels) or all(covers(x) for x in value.arrays):
        return value
    for x in value.arrays:
        if not covers(x):
            features.fix(x)
    return replace(value, arrays=tuple(x for x in value.arrays if covers(x)))


def _arguments(traced: Trace, node: Node, schema: Any) -> Mapping[str, Any]:
    """Return the arguments of a call by name, with labels in place of tensors."""
    values = torch.fx.map_arg((node.args, node.kwargs), lambda n: traced.values.get(n))
    args, kwargs = values
    if schema is None:
        return {str(place): value for place, value in enumerate(args)} | dict(kwargs)
    named = {a.name: a.default_value if a.has_default_value() else None for a in schema.arguments}
    named |= dict(zip((a.name for a in schema.arguments), args, strict=False))
    return named | kwargs


def _fix(traced: Trace, value: Any) -> None:
    for labels in value if isinstance(value, list) else [value]:
        if isinstance(labels, Labels):
            for array in labels.arrays:
                traced.features.fix(array)
