"""Mapping state dicts between the layouts of code bases, with a report on how they fit a model."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from plm_core.errors import InputError, MissingDependency, NotSupported, PluginError, WeightsError
from plm_core.hookspecs import WeightLayout
from plm_core.layouts import Rule, State, convert, foreign_names
from plm_core.registry import registry
from plm_core.utils.arguments import check_type
from plm_core.utils.near_misses import miss
from plm_core.utils.references import resolve
from plm_core.utils.text import said, shown
from plm_core.weights.checks import own_state

NATIVE = WeightLayout(name="native", models=(), help="the model's own keys")

SHOWN = 4
"""The number of keys that a message names before it only counts the rest."""

_log = logging.getLogger("plm_core")
# What torch puts into the names of a module's tensors when it compiles, shards or checkpoints a part of a model.
_INSERTED = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


@dataclass
class Report:
    """A report on how a state dict fits a model. Keys are the model's own."""

    layout: str
    closest: str | None = None
    """The layout that fits better than the requested one, if there is one."""
    unmapped: list[str] = field(default_factory=list)
    """The keys of the source that the layout has no place for; ``unexpected`` lists them too."""
    num_fitting: int = 0
    """The number of tensors that fit."""
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    """The two shapes of each key: (in the source, in the model)."""
    rest: list[str] = field(default_factory=list)
    """The keys of the source that belong to other parts of a larger file. They are left out."""
    names: dict[str, str] = field(default_factory=dict)
    """The names in the source of missing and mismatched keys, where its layout has others."""

    @property
    def ok(self) -> bool:
        """Whether everything fits."""
        return not (self.missing or self.unexpected or self.mismatched)

    def message(self, what: str) -> str:
        """Return the message of one line that names ``what`` (the model) and all that does not fit."""
        faults = []
        if self.missing:
            faults.append(f"missing: {_some([self._name(key) for key in self.missing])}")
        if self.unexpected:
            faults.append(f"unexpected: {_some(self.unexpected)}")
        if self.mismatched:
            shapes = [
                f"{self._name(k)} is {list(a)} in the source and {list(b)} in the model"
                for k, (a, b) in self.mismatched.items()
            ]
            faults.append(f"wrong shape: {_some(shapes)}")
        layout = f"layout {self.layout!r}, {self.num_fitting} tensors fit"
        if self.closest:
            layout += f", the closest layout is {self.closest!r}"
        return f"weights do not fit {what} ({layout}); {'; '.join(faults)}"

    def _name(self, key: str) -> str:
        return f"{self.names[key]} ({key} in the model)" if key in self.names else key


def _some(items: list[str]) -> str:
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(shown(item, 200) for item in items[:SHOWN]) + more


class WeightsMismatch(WeightsError):
    """The error for weights that do not fit a model; ``report`` lists everything that the message abbreviates."""

    def __init__(self, message: str, report: Report) -> None:
        super().__init__(message)
        self.report = report


def layouts_for(model: nn.Module) -> dict[str, WeightLayout]:
    """Return the layouts declared for a model's class by name, with ``native`` first."""
    # the nearest class comes last, so that its layouts replace those of the same name of its bases
    return {layout.name: layout for layout in (NATIVE, *reversed(registry().for_class(WeightLayout, model)))}


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside a compiled one, or inside one that is spread over devices, or else the model."""
    while True:
        if isinstance(model, DataParallel | DistributedDataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


def _layout(model: nn.Module, name: str) -> WeightLayout:
    check_type("layout", name, str, "the name of a weight layout")
    known = layouts_for(model)
    if name not in known:
        raise InputError(f"{miss('weight layout', name, known)} (for {type(model).__name__})")
    return known[name]


def _rules(model: nn.Module, layout: WeightLayout) -> tuple[Rule, ...]:
    """Return the rules of a layout for a model.

    Raises:
        NotSupported: The other code base has no such variant of the model.
        PluginError: The function of the layout fails, or returns something else than rules.
    """
    if layout.rules is None:
        return (Rule("*", "*"),)
    who = f"weight layout {layout.name!r}: {layout.rules}"
    try:
        rules = resolve(layout.rules)(model)
        if isinstance(rules, str | Mapping) or not isinstance(rules, Iterable):
            raise PluginError(f"{who} returns a {type(rules).__name__}; a sequence of Rule is expected")
        rules = tuple(rules)
    except (NotSupported, PluginError, MissingDependency):
        raise
    except Exception as e:  # it may fail in any way
        raise PluginError(f"{who} fails on {type(model).__name__}: {said(e)}") from e
    for number, rule in enumerate(rules):
        if not isinstance(rule, Rule):
            raise PluginError(f"{who} returns a {type(rule).__name__} as number {number}; a Rule is expected")
    return rules


def rules_of(model: nn.Module, name: str) -> tuple[Rule, ...]:
    """Return the rules of a layout for a model, such as the part of a larger one; none if it has no such layout.

    Raises:
        NotSupported: The other code base has no such variant of the model.
    """
    layout = layouts_for(model).get(name)
    return () if layout is None else _rules(model, layout)


def export(model: nn.Module, layout: str | None = None) -> dict[str, Tensor]:
    """Return the tensors of a model under the names and in the shapes of a layout.

    Args:
        model: Any model.
        layout: Name of the layout (default: the model's own keys).

    Raises:
        InputError: The model has no such layout.
        NotSupported: The other code base has no such variant of the model.
        WeightsError: The layout has no place for some of the model's tensors.

    Example:
        >>> import plm_core
        >>> from plm_core import weights
        >>> model = plm_core.create_model("hiera_micro_digits")
        >>> [key for key in weights.export(model) if key.startswith("head.fc")]
        ['head.fc.weight', 'head.fc.bias']
        >>> [key for key in weights.export(model, "transformers") if key.startswith("classifier")]
        ['classifier.weight', 'classifier.bias']
    """
    model = unwrapped(model)
    own = own_state(model)
    mapped, unmapped = convert(own, _rules(model, _layout(model, "native" if layout is None else layout)), to="foreign")
    if unmapped:
        raise WeightsError(f"layout {layout!r} has no place for {_some(unmapped)} of {type(model).__name__}")
    return mapped


def to_native(model: nn.Module, state: State, layout: str | None = None) -> tuple[dict[str, Tensor], Report]:
    """Map a state dict to the model's own keys.

    Args:
        model: The model that the tensors are for; it may be on the meta device.
        state: Tensors in some layout.
        layout: Name of the layout (default: the layout that fits best).

    Returns:
        The mapped tensors, and a report on how they fit.

    Raises:
        InputError: The model has no such layout.
        NotSupported: The other code base has no such variant of the model.
    """
    expected = {key: tuple(value.shape) for key, value in own_state(model).items()}
    best = _best(model, state, layout, expected)
    for bare in () if best[1].ok else _without_wrappers(state):
        candidate = _best(model, bare, layout, expected)
        if candidate[1].num_fitting > best[1].num_fitting:
            best = candidate
    return best


def _best(
    model: nn.Module, state: State, layout: str | None, expected: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, Tensor], Report]:
    """Map a state dict by the layout that fits best, or by the one that is named."""
    best: tuple[dict[str, Tensor], Report] | None = None
    for candidate in layouts_for(model).values() if layout is None else [_layout(model, layout)]:
        try:
            rules = _rules(model, candidate)
        except NotSupported:  # the other code base has no such variant of the model
            if layout is not None:
                raise
            continue
        part = {key: value for key, value in state.items() if key.startswith(candidate.part)} or state
        mapped, unmapped = convert(part, rules, to="native")
        report = compare(candidate.name, mapped, unmapped, expected)
        report.rest = [key for key in state if key not in part]
        # a layout that knows every key beats one that fits as many tensors but leaves some over
        if best is None or _rank(report) > _rank(best[1]):
            best = mapped, report
        if report.ok:
            break
    assert best is not None
    return best


def _rank(report: Report) -> tuple[int, int]:
    return report.num_fitting, -len(report.unexpected)


def _without_wrappers(state: State) -> Iterator[dict[str, Tensor]]:
    """Yield a state dict without what wrappers have put before or into its names, one prefix fewer each time.

    Such names are those of compiled models and of models inside another module, as DDP and Lightning have them.
    """
    bare = {_INSERTED.sub("", key): value for key, value in state.items()}
    if bare.keys() != state.keys() and len(bare) == len(state):
        yield bare
    while len(firsts := {key.partition(".")[0] for key in bare}) == 1 and all("." in key for key in bare):
        bare = {key.removeprefix(f"{min(firsts)}."): value for key, value in bare.items()}
        yield bare


def compare(layout: str, mapped: State, unmapped: list[str], expected: Mapping[str, tuple[int, ...]]) -> Report:
    """Report how mapped tensors fit the shapes that a model expects.

    Args:
        layout: Name of the layout that the tensors were mapped from.
        mapped: Tensors by the model's own keys.
        unmapped: Keys of the source that the layout has no place for.
        expected: Shapes by the model's own keys.
    """
    report = Report(layout, unmapped=unmapped, missing=[k for k in expected if k not in mapped])
    report.unexpected = [*unmapped, *(k for k in mapped if k not in expected)]
    for key, shape in expected.items():
        if key in mapped:
            if tuple(mapped[key].shape) == shape:
                report.num_fitting += 1
            else:
                report.mismatched[key] = (tuple(mapped[key].shape), shape)
    return report


def mismatch(report: Report, what: str, model: nn.Module, state: State) -> WeightsMismatch:
    """Return the error that says how ``state`` does not fit, and names the closest layout if another was requested.

    A model with a method ``why_not(state)`` adds what it says, such as why there can be no such weights of it.
    """
    best = to_native(model, state)[1]
    if best.num_fitting > report.num_fitting:
        report.closest = best.layout
    rules = _rules(model, _layout(model, report.layout))
    for key in (*report.missing, *report.mismatched):
        if names := [name for name in foreign_names(key, rules) if key not in report.missing or name not in state]:
            report.names |= {} if names == [key] else {key: " and ".join(names)}
    why_not: Any = getattr(model, "why_not", None)
    reason = why_not(state) if callable(why_not) else ""
    return WeightsMismatch(f"{report.message(what)}{f' ({reason})' if reason else ''}", report)


def announce_rest(report: Report, what: str) -> None:
    """Log which parts of a larger file were left out.

    Args:
        report: The report on weights that fit.
        what: The model in words.
    """
    if report.rest:
        counts = Counter(key.partition(".")[0] for key in report.rest).most_common()
        parts = _some([f"{name} ({count})" for name, count in counts])
        _log.warning("%s is a part of the source; tensors of other parts are left out: %s", what, parts)
