"""From a string to the thing it names: ``module:attribute`` references, near misses, and who would provide a name."""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from importlib import metadata
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

from plm_core.errors import MissingDependency, PluginError

# Which of the family's distributions provides what, so that a missed look-up can say what to install. Some of these
# distribution names belong to other projects on the public index, hence the hint never says "pip install <name>".
PROVIDERS = (
    ("model", "pe_*", "pe-encoder"),
    ("model", "hiera_*", "hiera"),
    ("model", "hieradet_*", "hiera"),
    ("model", "mae_hiera_*", "hiera"),
    ("model", "vitdet_*", "hiera"),
    ("model", "gazelle_*", "gazelle"),
    ("model", "plm_*", "plm-core[lm]"),
    ("transform", "tome*", "tome"),
    ("transform", "hydra*", "hydra-attn"),
    ("merger", "zipit*", "zipit"),
    ("scorer", "parc*", "parc"),
    ("command", "rank", "parc"),
    ("command", "tome", "tome"),
)


def resolve(reference: str) -> Any:
    """Import what ``"module:attribute"`` names.

    Raises:
        MissingDependency: The module, or something that it imports, is not installed.
        PluginError: The reference is malformed or the module has no such attribute.
    """
    module_name, sep, attribute = reference.partition(":")
    if not (module_name and sep and attribute):
        raise PluginError(f"reference {reference!r} is not of the form 'module:attribute'")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as e:
        raise MissingDependency(f"{reference!r} needs the module {e.name!r}, which is not installed") from e
    try:
        return getattr(module, attribute)
    except AttributeError:
        raise PluginError(f"module {module_name!r} has no attribute {attribute!r}") from None


def miss(kind: str, name: str, known: Iterable[str]) -> str:
    """One line for a look-up that found nothing: what is near, and which distribution would provide it."""
    known = sorted(set(known))
    line = f"no {kind} {name!r}"
    provider = next((dist for k, pattern, dist in PROVIDERS if k == kind and fnmatchcase(name, pattern)), None)
    absent = provider is not None and not installed(provider)
    if absent:
        line += f"; {provider} would provide it and is not installed (see 'Install' in the hub's README)"
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    if near:
        line += f"; did you mean {' or '.join(map(repr, near))}?"
    elif not absent and 0 < len(known) <= 20:
        line += f"; there are: {', '.join(known)}"
    return line


def installed(requirement: str) -> bool:
    """Whether ``"dist"``, ``"dist>=1"`` or ``"dist[extra]"`` is installed, with everything that the extra asks for."""
    try:
        wanted = Requirement(requirement)
        dist = metadata.distribution(wanted.name)
    except (InvalidRequirement, metadata.PackageNotFoundError):
        return False
    if not wanted.specifier.contains(dist.version, prereleases=True):
        return False
    for extra in wanted.extras:
        if extra not in (dist.metadata.get_all("Provides-Extra") or []):
            return False
        for line in dist.requires or []:
            part = Requirement(line)
            if part.marker and "extra" in str(part.marker) and part.marker.evaluate({"extra": extra}):
                try:
                    metadata.distribution(part.name)
                except metadata.PackageNotFoundError:
                    return False
    return True


def check_needs(what: str, needs: Iterable[str]) -> None:
    """Raise MissingDependency naming every requirement in ``needs`` that is not installed."""
    missing = [need for need in needs if not installed(need)]
    if missing:
        raise MissingDependency(f"{what} needs {', '.join(missing)} (see 'Install' in the hub's README)")


def class_paths(obj: object) -> list[str]:
    """``"module:ClassName"`` of an object's class and its bases, nearest first."""
    return [f"{c.__module__}:{c.__qualname__}" for c in type(obj).__mro__]


def natural_key(text: str) -> list[int | str]:
    """Sort key under which ``b2`` comes before ``b16``."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", text.lower())]
