"""The scores by name, and the meaning of a text like ``knn:k=5``.

Case, "-" and "_" do not matter in a name, and `ALIASES` holds a few other names.
"""

from __future__ import annotations

import inspect
import reprlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from parc.plugin import plm_scorers
from parc.scores.inputs import Array, kind_of
from parc.scores.pca import parse_pca
from plm_core import transforms
from plm_core.errors import InputError, NotSupported, UnknownName
from plm_core.hookspecs import Scorer
from plm_core.registry import registry
from plm_core.utils.near_misses import miss
from plm_core.utils.references import resolve

MAX_LENGTH = 500
"""Largest length of a method with its options."""
ALIASES = {"cka": "dds", "auc": "parc-auc", "lda": "lda-loo", "ridge": "ridge-press"}


@dataclass(frozen=True)
class Method:
    """A score with its options."""

    scorer: Scorer
    function: Callable[..., float]
    options: Mapping[str, Any] = field(default_factory=dict)
    pca: int | str | None = None


def methods() -> list[str]:
    """Return the names of all scores: those of parc first, then those of other distributions.

    Example:
        >>> import parc
        >>> parc.methods()[:4]
        ['parc', 'parc-auc', 'rsa', 'dds']
    """
    return list(_scorers())


def parse_method(text: str, pca: int | str | None = None, **options: Any) -> Method:
    """Parse ``"knn"``, ``"K-NN"`` or ``"knn:k=5,metric=cosine"``.

    Args:
        text: The method. Options in the text override ``options``.
        pca: Reduction of the features, unless the text has its own.
        **options: Options of the score.

    Raises:
        UnknownName: There is no such score. The message names similar ones.
        InputError: The text has another form, or the score does not take an option.
    """
    if not isinstance(text, str) or len(text) > MAX_LENGTH:
        raise InputError(f"method is {reprlib.repr(text)}; a name, or name:option=value,... is allowed")
    name, _, rest = text.partition(":")
    if rest:
        try:
            name, own_options = transforms.parse(text)
        except InputError as e:
            raise InputError(str(e).replace("transform", "method", 1)) from None
        options |= own_options
    scorer = _find(name)
    pca = options.pop("pca", pca)
    pca = None if str(pca).lower() == "none" else pca
    if pca is not None:
        parse_pca(pca)
    function = resolve(scorer.score)
    _check_options(scorer, function, options)
    if long := [name for name, value in options.items() if isinstance(value, str) and len(value) > MAX_LENGTH]:
        raise InputError(f"{scorer.name} takes no {long[0]} of {len(options[long[0]])} characters")
    return Method(scorer, function, options, pca)


def _scorers() -> dict[str, Scorer]:
    """Return all scores by name.

    The scores of parc come from its plug-in module and not from the registry. `parc.score` must work when the plug-in
    is disabled, and no other distribution may replace a score of parc.
    """
    ours = {scorer.name: scorer for scorer in plm_scorers()}
    others = {name: entry.declaration for name, entry in registry().all(Scorer).items()}
    return ours | {name: scorer for name, scorer in others.items() if name not in ours}


def _key(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _find(name: str) -> Scorer:
    known = _scorers()
    if name in known:
        return known[name]
    by_key = {_key(alias): known[target] for alias, target in ALIASES.items()}
    by_key |= {_key(other): scorer for other, scorer in reversed(known.items())}
    if _key(name) not in by_key:
        raise unknown_method("scorer", name, known, ALIASES)
    return by_key[_key(name)]


def unknown_method(kind: str, name: str, known: Iterable[str], aliases: Iterable[str] = ()) -> UnknownName:
    """Return the error for a name that no score has: with similar names, or else with all names.

    Args:
        kind: The kind of the name in words.
        name: The name.
        known: All names.
        aliases: Further names that are only suggested.
    """
    known = list(known)
    if "," in name:
        parts = [part.strip() for part in name.split(",")]
        return UnknownName(f"no {kind} {name!r}; several are a list, as in {parts}")
    line = miss(kind, name.lower(), [*known, *aliases], most=0)
    return UnknownName(line if "did you mean" in line else f"{line}; there are: {', '.join(known)}")


def _check_options(scorer: Scorer, function: Callable[..., float], options: Mapping[str, Any]) -> None:
    parameters = list(inspect.signature(function).parameters.values())[2:]
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    allowed = [p.name for p in parameters if p.name not in scorer.needs]
    for option in options:
        if option not in allowed:
            which = f"it takes {', '.join([*allowed, 'pca'])}"
            raise InputError(f"{scorer.name} takes no option {option!r}; {which}")


def check_kind(scorer: Scorer, labels: Array) -> None:
    """Check that a score can use labels of this kind.

    Raises:
        NotSupported: It cannot. The message names the scores that can.
    """
    kind = kind_of(labels)
    if kind not in scorer.targets:
        able = [name for name, other in _scorers().items() if kind in other.targets]
        hint = "cast classes to integers, or use one of" if kind == "regression" else "these can:"
        raise NotSupported(f"{scorer.name} cannot do {kind} labels; {hint} {', '.join(able)}")
