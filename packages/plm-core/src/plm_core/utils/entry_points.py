"""Entry points with the metadata of their distributions. Metadata that cannot be read harms no other distribution."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from plm_core.utils.text import describe, shown


@dataclass(frozen=True)
class Source:
    """An entry point, and what the metadata of its distribution say."""

    name: str
    """Name of the entry point. Empty if it cannot be read."""
    point: metadata.EntryPoint | None
    distribution: str
    version: str = ""
    requires: tuple[str, ...] = ()
    problem: str = ""
    """Why the metadata cannot be read. Empty if they can."""

    @property
    def order(self) -> tuple[str, bool, str]:
        """A sort key: by name; of two that share it, the one whose distribution has that name comes first."""
        own_name = canonicalize_name(self.distribution) == canonicalize_name(self.name)
        return self.name, not own_name, self.distribution


def in_group(group: str) -> list[Source]:
    """Return the entry points of the installed distributions in a group, sorted."""
    try:
        return read(metadata.entry_points(group=group))
    except Exception:  # a single file that cannot be read stops importlib.metadata; look at each distribution instead
        return sorted(_one_by_one(group), key=lambda source: source.order)


def read(points: Iterable[metadata.EntryPoint]) -> list[Source]:
    """Return entry points with the metadata of their distributions, sorted."""
    return sorted(map(_source, points), key=lambda source: source.order)


def _one_by_one(group: str) -> Iterator[Source]:
    seen: set[str] = set()
    for distribution in metadata.distributions():
        folder = _folder(distribution)
        try:
            points = [point for point in distribution.entry_points if point.group == group]
        except Exception as e:
            yield Source("", None, folder, problem=f"its entry points cannot be read: {describe(e)}")
            continue
        if points and folder not in seen:  # a copy of a distribution that is further down the path does not count
            seen.add(folder)
            yield from map(_source, points)


def _source(point: metadata.EntryPoint) -> Source:
    distribution: Any = point.dist
    if distribution is None:
        return Source(point.name, point, "(unknown)")
    try:
        name, version = shown(distribution.name or "(unknown)"), shown(distribution.version or "")
        return Source(point.name, point, name, version, tuple(distribution.requires or ()))
    except Exception as e:
        return Source(point.name, point, _folder(distribution), problem=f"its metadata cannot be read: {describe(e)}")


def _folder(distribution: Any) -> str:
    """Return the name of the folder that holds the metadata, for a distribution whose own name cannot be read."""
    return shown(Path(str(getattr(distribution, "_path", ""))).name) or "(unknown)"
