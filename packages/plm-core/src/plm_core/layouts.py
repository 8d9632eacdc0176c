"""Weight layouts: a table of rules that maps the state dict of another code base to a model's own keys, and back.

A rule pairs a pattern of native keys (the model's own) with a pattern of foreign keys (those of the other code base).
``*`` stands for the same characters on both sides. A change of more than the name is a named, invertible `Step`. Both
directions are read from the same table, so they cannot drift apart::

    Rule("head.fc.*", "classifier.*")
    Rule("attn.qkv.*", ("attn.q.*", "attn.k.*", "attn.v.*"), step=split(0, 3))

Everything works on meta tensors too. This is how the tests prove the tables on the tensor names and shapes of the
public checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from plm_core.errors import InputError

Parts = list[Tensor]
State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Step:
    """A change of the tensors of a rule: ``to_foreign`` for writing, its inverse ``to_native`` for loading."""

    name: str
    to_foreign: Callable[[Parts], Parts]
    to_native: Callable[[Parts], Parts]

    def inverted(self, name: str) -> Step:
        """Return the same step with the directions swapped."""
        return Step(name, self.to_native, self.to_foreign)


def _same(parts: Parts) -> Parts:
    return parts


KEEP = Step("keep", _same, _same)


def transpose(dim0: int = 0, dim1: int = 1) -> Step:
    """Swap two dimensions of a tensor."""

    def swap(parts: Parts) -> Parts:
        return [part.transpose(dim0, dim1) for part in parts]

    return Step("transpose", swap, swap)


def split(dim: int, parts: int) -> Step:
    """Split one native tensor along ``dim`` into ``parts`` foreign tensors of equal size."""
    return Step(
        "split",
        to_foreign=lambda t: list(t[0].chunk(parts, dim)),
        to_native=lambda t: [torch.cat(t, dim)],
    )


def stack(dim: int, parts: int) -> Step:
    """Stack ``parts`` native tensors along a new dimension ``dim`` into one foreign tensor."""
    return Step(
        "stack",
        to_foreign=lambda t: [torch.stack(t, dim)],
        to_native=lambda t: list(t[0].unbind(dim)),
    )


def reshape(native: Sequence[int], foreign: Sequence[int]) -> Step:
    """Reshape between the native and the foreign tensor. One size of each shape may be -1."""
    return Step(
        "reshape",
        to_foreign=lambda t: [part.reshape(*foreign) for part in t],
        to_native=lambda t: [part.reshape(*native) for part in t],
    )


def uninterleave(num_heads: int) -> Step:
    """Reorder the rows of a rotary query or key projection, head by head.

    Foreign rows come as pairs: (0, 1), (2, 3) and so on. Native rows begin with the first row of every pair, followed
    by the second row of every pair. The step applies to weights [num_heads * head_dim, in] and biases
    [num_heads * head_dim].
    """

    def to_native(t: Parts) -> Parts:
        return [p.unflatten(0, (num_heads, -1, 2)).transpose(1, 2).flatten(0, 2) for p in t]

    def to_foreign(t: Parts) -> Parts:
        return [p.unflatten(0, (num_heads, 2, -1)).transpose(1, 2).flatten(0, 2) for p in t]

    return Step("uninterleave", to_foreign, to_native)


def _nothing(parts: Parts) -> Parts:
    return []


IGNORE = Step("ignore", _nothing, _nothing)
"""The step of a rule without native patterns. Its foreign tensors repeat others, and are read past and not written."""


@dataclass(frozen=True)
class Rule:
    """A native key pattern, or several, and the foreign ones for the same tensors.

    The first rule of a table that matches a key counts. So what is special comes before what is general.

    Attributes:
        native: A pattern of the model's own keys, or several. Each pattern of a rule has one ``*``, or none has. The
            ``*`` stands for the same characters, dots included, in all of them.
        foreign: The patterns of the other code base's keys.
        step: How the native tensors become the foreign ones, and back: `KEEP`, `transpose`, `split`, `stack`,
            `reshape`, `uninterleave`, `IGNORE`, or a `Step` of your own.
    """

    native: str | tuple[str, ...]
    foreign: str | tuple[str, ...]
    step: Step = KEEP

    def __post_init__(self) -> None:
        patterns = [pattern for side in self.sides("foreign") for pattern in side]
        if {pattern.count("*") for pattern in patterns} not in ({0}, {1}):
            raise InputError(f"patterns {', '.join(patterns)} of a rule must have one '*' each, or none")

    def sides(self, to: Literal["native", "foreign"]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return (source patterns, target patterns) for a direction."""
        native = (self.native,) if isinstance(self.native, str) else self.native
        foreign = (self.foreign,) if isinstance(self.foreign, str) else self.foreign
        return (foreign, native) if to == "native" else (native, foreign)


def prefixed(native: str, foreign: str, rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """Return rules for a part of a larger model: with a prefix before the native patterns, and one before the foreign.

    Example:
        >>> prefixed("visual.", "trunk.", [Rule("norm.*", "ln.*")])[0].foreign
        'trunk.ln.*'
    """

    def named(prefix: str, names: str | tuple[str, ...]) -> str | tuple[str, ...]:
        return prefix + names if isinstance(names, str) else tuple(prefix + name for name in names)

    return tuple(Rule(named(native, rule.native), named(foreign, rule.foreign), rule.step) for rule in rules)


def convert(
    state: State, rules: Iterable[Rule], to: Literal["native", "foreign"]
) -> tuple[dict[str, Tensor], list[str]]:
    """Map a state dict by a table of rules. Each key is mapped by the first rule that matches it.

    Args:
        state: Tensors by key.
        rules: The table.
        to: The side of the keys in the result.

    Returns:
        The mapped tensors, and the keys that are left over. A key is left over when no rule matches it, when not all
        keys of its rule are present, when they have several dtypes, when the step does not work on the shapes, or when
        another key was already mapped to the same name.
    """
    table = [(rule, *rule.sides(to)) for rule in rules]
    groups: dict[tuple[int, str], dict[int, str]] = {}
    unmapped: list[str] = []
    for key in state:
        place = _find(key, table)
        if place is None:
            unmapped.append(key)
        else:
            index, part, run = place
            groups.setdefault((index, run), {})[part] = key
    mapped: dict[str, Tensor] = {}
    for (index, run), keys in groups.items():
        rule, sources, targets = table[index]
        if len(keys) < len(sources):
            unmapped.extend(keys.values())
            continue
        step = rule.step.to_native if to == "native" else rule.step.to_foreign
        if len({state[key].dtype for key in keys.values()}) > 1:  # torch.cat would change some of them in silence
            unmapped.extend(keys.values())
            continue
        try:
            results = step([state[keys[i]] for i in range(len(sources))])
            tensors = dict(zip((target.replace("*", run) for target in targets), results, strict=True))
        except (RuntimeError, IndexError, ValueError):  # torch's errors for shapes that a step cannot handle
            unmapped.extend(keys.values())
            continue
        if tensors.keys() & mapped.keys():
            unmapped.extend(keys.values())  # one tensor must not silently replace another
        else:
            mapped |= tensors
    return mapped, unmapped


def foreign_names(key: str, rules: Iterable[Rule]) -> tuple[str, ...]:
    """Return the foreign names of the tensors that a native tensor is mapped to; none if no rule matches."""
    table = [(rule, *rule.sides("foreign")) for rule in rules]
    place = _find(key, table)
    return () if place is None else tuple(target.replace("*", place[2]) for target in table[place[0]][2])


def _find(key: str, table: Sequence[tuple[Rule, tuple[str, ...], tuple[str, ...]]]) -> tuple[int, int, str] | None:
    for index, (_, sources, _) in enumerate(table):
        for part, pattern in enumerate(sources):
            head, star, tail = pattern.partition("*")
            if not star:
                if key == pattern:
                    return index, part, ""
            elif len(key) >= len(head) + len(tail) and key.startswith(head) and key.endswith(tail):
                return index, part, key[len(head) : len(key) - len(tail)]
    return None
