"""Checks of whether distributions and extras are installed."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import metadata

from packaging.requirements import InvalidRequirement, Requirement

from plm_core.errors import MissingDependency


def installed(requirement: str) -> bool:
    """Return whether ``"dist"``, ``"dist>=1"`` or ``"dist[extra]"`` is installed, with all that the extra requires."""
    try:
        need = Requirement(requirement)
        dist = metadata.distribution(need.name)
    except (InvalidRequirement, metadata.PackageNotFoundError):
        return False
    if not need.specifier.contains(dist.version, prereleases=True):
        return False
    for extra in need.extras:
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
    """Check that every requirement in ``needs`` is installed.

    Raises:
        MissingDependency: Some are not. The message names all of them.
    """
    missing = [need for need in needs if not installed(need)]
    if missing:
        raise MissingDependency(f"{what} needs {', '.join(missing)} (see 'Install' in the repository's README)")
