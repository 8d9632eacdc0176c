"""Which models to rank: patterns over timm's names and the hub's, repositories and folders."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from plm_core.errors import InputError, NotSupported, UnknownName
from plm_core.utils.near_misses import miss
from plm_core.utils.text import natural_key

_log = logging.getLogger("parc")
WILD = frozenset("*?[")
RANDOM = "random:"


@dataclass(frozen=True)
class Candidate:
    """A model to be made."""

    name: str
    """As `plm_core.create_model` takes it; with its tag where it has one."""
    pretrained: bool = True

    def __str__(self) -> str:
        return self.name if self.pretrained else RANDOM + self.name


def expand(patterns: Iterable[str], pretrained: bool = True) -> list[Candidate]:
    """The models that patterns name, each once, in the order of the patterns.

    Args:
        patterns: ``resnet*`` (each architecture with its default weights), ``resnet50.*`` (each set of weights of
            one), ``name``, ``name.tag``, ``hf-hub:org/name``, ``org/name``, ``local-dir:path``; with ``random:``
            before it, random weights.
        pretrained: False for random weights throughout.

    Raises:
        UnknownName: A pattern matches nothing; says what is near.
        InputError: No pattern.
    """
    found: dict[Candidate, None] = {}
    for pattern in patterns:
        text, trained = pattern.strip(), pretrained
        if text.startswith(RANDOM):
            text, trained = text.removeprefix(RANDOM), False
        if not text:
            raise InputError(f"models has {pattern!r}; a name or a pattern as 'resnet*' is allowed")
        found |= dict.fromkeys(Candidate(name, trained) for name in _names(text, trained))
    if not found:
        raise InputError("models is empty; at least one name or pattern as 'resnet*' is needed")
    return list(found)


def _names(text: str, pretrained: bool) -> list[str]:
    if ":" in text or "/" in text:
        return [text]
    if not WILD & set(text):
        return [_full(text)] if pretrained else [_known(text)]
    tagged, known = _tables()
    names = sorted(known, key=natural_key)
    if not pretrained:
        matched = [name for name in names if fnmatchcase(name, text)]
    elif "." in text:
        matched = sorted(
            (name for tags in tagged.values() for name in tags if fnmatchcase(name, text)), key=natural_key
        )
    else:
        architectures = [name for name in names if fnmatchcase(name, text)]
        matched = [_default(name) for name in architectures if name in tagged]
        _say_skipped(text, architectures, matched)
    if not matched:
        raise UnknownName(miss("model matching", text, known))
    return matched


def _tables() -> tuple[dict[str, list[str]], list[str]]:
    """Of each architecture the names of its sets of weights, and all architectures."""
    from plm_core.models import list_models

    tagged: dict[str, list[str]] = {}
    for name in list_models(pretrained=True):
        tagged.setdefault(name.partition(".")[0], []).append(name)
    return tagged, list_models()


def _say_skipped(text: str, architectures: list[str], matched: list[str]) -> None:
    bare = len(architectures) - len(matched)
    if architectures and not matched:
        raise UnknownName(
            f"none of the {bare} models that match {text!r} has weights; {RANDOM}{text} makes them random"
        )
    if bare:
        _log.warning(
            "%d of the %d models that match %r have no weights and are left out", bare, len(architectures), text
        )


def _known(name: str) -> str:
    """``name``, if there is such a model."""
    from timm.models import is_model

    from plm_core.models import list_models

    if not is_model(name.partition(".")[0]):
        raise UnknownName(miss("model", name, list_models()))
    return name


def _full(name: str) -> str:
    """A known ``name`` with a tag, its own or that of the weights it gets when it is made pretrained."""
    from plm_core.models import list_models

    if "." not in _known(name):
        return _default(name)
    if name not in (tags := list_models(f"{name.partition('.')[0]}.*", include_tags=True)):
        raise UnknownName(miss("model", name, tags))
    return name


def _default(name: str) -> str:
    """``resnet18`` -> ``resnet18.a1_in1k``; the name as it is, if there are no weights."""
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(name, allow_unregistered=True)
    return f"{name}.{config.tag}" if config is not None and config.has_weights and config.tag else name


def make(candidate: Candidate) -> Any:
    """The model, in eval mode. Random weights are the same each time, so that they can be found in the cache.

    Raises:
        PlmError: As `plm_core.create_model`.
        NotSupported: The model has no weights.
    """
    import torch

    from plm_core.models import create_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            model = create_model(candidate.name, pretrained=candidate.pretrained)
        except RuntimeError as e:
            if "No pretrained weights exist" not in str(e):
                raise
            raise NotSupported(f"there are no weights of it; {RANDOM}{candidate.name} makes it random") from e
    return model.eval()


def has_trained_head(model: Any, candidate: Candidate) -> bool:
    """Whether the model's probabilities mean something: trained weights, and a classifier among them."""
    from plm_core.timm_bridge.checkpoint import pretrained_entry

    if not candidate.pretrained or not getattr(model, "num_classes", 0):
        return False
    config = getattr(model, "pretrained_cfg", None) or {}
    entry = pretrained_entry(config)
    classifier = config.get("classifier") or ()
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    return entry is None or not any(head.startswith(entry.untrained) for head in heads)


def size_of(candidate: Candidate) -> int:
    """Number of parameters, without loading any; 0 where that cannot be told."""
    from parc.facts import facts_of

    try:
        return facts_of(candidate.name).params
    except Exception:  # it says why when it is really made
        return 0
