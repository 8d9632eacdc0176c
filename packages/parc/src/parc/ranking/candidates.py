"""The models to rank: patterns become names, names become models."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from parc.facts import TORCHVISION, facts_of
from plm_core.errors import InputError, NoWeights, UnknownName
from plm_core.utils.arguments import RANDOM
from plm_core.utils.files import existing_folder
from plm_core.utils.near_misses import miss
from plm_core.utils.seeding import seeded_weights
from plm_core.utils.text import natural_key

_log = logging.getLogger("parc")
WILDCARDS = frozenset("*?[")


@dataclass(frozen=True)
class Candidate:
    """A model to rank, not yet loaded."""

    name: str
    """The name for `plm_core.create_model`, with its tag if it has one."""
    pretrained: bool = True

    def __str__(self) -> str:
        return self.name if self.pretrained else RANDOM + self.name


def expand_patterns(patterns: Iterable[str], pretrained: bool = True) -> list[Candidate]:
    """Return the models that match the patterns, each once, in the order of the patterns.

    A model that is spelt in two ways, such as ``run`` and ``local-dir:./run``, keeps its first name.

    Args:
        patterns: ``resnet*`` (each architecture with its default weights), ``resnet50.*`` (one architecture with all
            of its weights), ``name``, ``name.tag``, ``hf-hub:org/name``, ``org/name``, ``local-dir:path``,
            ``torchvision:resnet*`` (image classifiers of torchvision, each with its default weights),
            ``torchvision:resnet50.IMAGENET1K_V1`` or ``transformers:org/name``. The prefix ``random:`` stands for
            random weights.
        pretrained: False to give every model random weights.

    Raises:
        UnknownName: A pattern matches nothing. The message names similar models.
        InputError: There is no pattern.
    """
    candidates: dict[tuple[str, bool], Candidate] = {}
    for pattern in patterns:
        text = pattern.strip()
        with_weights = pretrained and not text.startswith(RANDOM)
        text = text.removeprefix(RANDOM)
        if not text:
            raise InputError(f"models has {pattern!r}; a name or a pattern as 'resnet*' is allowed")
        for name in _names(text, with_weights):
            candidates.setdefault((_identity(name, with_weights), with_weights), Candidate(name, with_weights))
    if not candidates:
        raise InputError("models is empty; at least one name or pattern as 'resnet*' is needed")
    return list(candidates.values())


def _identity(name: str, pretrained: bool) -> str:
    """Return the same text for all spellings of the name of a model."""
    source, colon, rest = name.partition(":")
    source, rest = (source.lower(), rest) if colon else ("", name)
    if not source and "/" not in rest and _is_model(rest):  # it comes before a folder of the same name
        return name if pretrained else rest.partition(".")[0]
    if source == "torchvision":
        from plm_core.sources.torchvision import weights_entry

        architecture, _, tag = rest.partition(".")
        return f"torchvision:{architecture}.{weights_entry(architecture, tag).name if pretrained else ''}"
    if source in ("", "local-dir", "transformers") and (folder := existing_folder(rest)):
        return f"{source.replace('local-dir', '')}:{folder.resolve()}"
    if source in ("hf-hub", "hf_hub") or (not source and "/" in rest):
        return f"hf-hub:{rest.removesuffix('@')}"
    return name


def _names(text: str, pretrained: bool) -> list[str]:
    """Return the names of the models that match a name or pattern."""
    if text.startswith(TORCHVISION):
        return [TORCHVISION + name for name in _torchvision_names(text.removeprefix(TORCHVISION))]
    if ":" in text or "/" in text or (existing_folder(text) and not _is_model(text)):
        return [text]
    if not WILDCARDS & set(text):
        return [_with_tag(text)] if pretrained else [_existing(text)]
    tagged, architectures = _tables()
    matched = sorted((name for name in architectures if fnmatchcase(name, text)), key=natural_key)
    if pretrained and "." in text:
        matched = sorted(
            (name for names in tagged.values() for name in names if fnmatchcase(name, text)), key=natural_key
        )
    elif pretrained:
        with_weights = [_with_default_tag(name) for name in matched if name in tagged]
        _report_skipped(text, len(matched), len(with_weights))
        matched = with_weights
    if not matched:
        raise UnknownName(miss("model matching", text, architectures))
    return matched


def _torchvision_names(text: str) -> list[str]:
    """Return the names of the models of torchvision that match a name or pattern. A name may have an entry."""
    from plm_core.sources.torchvision import classifiers, weights_entry

    if not WILDCARDS & set(text):
        weights_entry(*text.split(".", 1))  # raises if there is none
        return [text]
    matched = classifiers(text)
    if not matched:
        raise UnknownName(miss("model of torchvision matching", text, classifiers("*")))
    return matched


def _tables() -> tuple[dict[str, list[str]], list[str]]:
    """Return the tagged names of each architecture that has weights, and all architectures."""
    from plm_core.models import list_models

    tagged: dict[str, list[str]] = {}
    for name in list_models(pretrained=True):
        tagged.setdefault(name.partition(".")[0], []).append(name)
    return tagged, list_models()


def _report_skipped(pattern: str, matched: int, with_weights: int) -> None:
    """Warn that some models have no weights and are left out, or raise if no model has weights."""
    skipped = matched - with_weights
    if matched and not with_weights:
        raise UnknownName(
            f"none of the {skipped} models that match {pattern!r} has weights; {RANDOM}{pattern} makes them random"
        )
    if skipped:
        _log.warning("%d of the %d models that match %r have no weights and are left out", skipped, matched, pattern)


def _existing(name: str) -> str:
    """Return ``name``, or raise if there is no such model."""
    from plm_core.models import list_models

    if not _is_model(name):
        hint = f"; several models are a list, as in {name.split(',')}" if "," in name else ""
        raise UnknownName(miss("model", name, list_models()) + hint)
    return name


def _is_model(name: str) -> bool:
    """Return whether timm or a plug-in has a model of this name, with or without a tag."""
    from timm.models import is_model

    return bool(is_model(name.partition(".")[0]))


def _with_tag(name: str) -> str:
    """Return a name with its own tag, or with that of its default weights."""
    from plm_core.models import list_models

    if "." not in _existing(name):
        return _with_default_tag(name)
    if name not in (tagged := list_models(f"{name.partition('.')[0]}.*", include_tags=True)):
        raise UnknownName(miss("model", name, tagged))
    return name


def _with_default_tag(name: str) -> str:
    """Return ``resnet18.a1_in1k`` for ``resnet18``, or the name unchanged if there are no weights."""
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(name, allow_unregistered=True)
    return f"{name}.{config.tag}" if config is not None and config.has_weights and config.tag else name


def make_model(candidate: Candidate) -> Any:
    """Create a model in eval mode. Random weights are always the same, so the cache has their features too.

    Raises:
        PlmError: An error of `plm_core.create_model`.
        NoWeights: There are no weights of the model.
    """
    from plm_core.models import create_model

    with seeded_weights(0):
        try:
            model = create_model(candidate.name, pretrained=candidate.pretrained)
        except NoWeights as e:
            raise NoWeights(f"there are no weights of it; {RANDOM}{candidate.name} makes it random") from e
    return model.eval()


def has_trained_head(model: Any, candidate: Candidate) -> bool:
    """Whether the model's class probabilities mean something: its weights, the classifier included, were trained."""
    from plm_core.models import LIBRARIES
    from plm_core.timm_bridge.checkpoint import pretrained_entry

    if candidate.pretrained and candidate.name.partition(":")[0] in LIBRARIES:
        return True  # these refuse weights that lack the classifier
    if not candidate.pretrained or not getattr(model, "num_classes", 0):
        return False
    config = getattr(model, "pretrained_cfg", None) or {}
    entry = pretrained_entry(config)
    classifier = config.get("classifier") or ()
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    return entry is None or not any(head.startswith(entry.untrained) for head in heads)


def size_of(candidate: Candidate) -> int:
    """Return the number of parameters without loading any, or 0 if it is unknown."""
    try:
        return facts_of(candidate.name).params
    except Exception:  # the reason is reported when the model is created
        return 0
