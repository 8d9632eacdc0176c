"""Throw-away distributions on disk, so that tests meet plug-ins as an installer leaves them."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path


def write_distribution(
    folder: Path,
    name: str,
    modules: Mapping[str, str],
    entry_points: Mapping[str, str],
    version: str = "1.0",
    requires: Sequence[str] = (),
    group: str = "plm",
) -> Path:
    """Write modules and the metadata that make ``importlib.metadata`` see an installed distribution.

    Args:
        folder: Put it on ``sys.path`` (``monkeypatch.syspath_prepend``), and its modules and entry points are found.
        name: Of the distribution.
        modules: Path of a module to its source, ``{"demo_plugin.py": "..."}``; dedented.
        entry_points: Name to module, ``{"demo": "demo_plugin"}``.
        version: Of the distribution.
        requires: Requirements, as ``["plm-core>=0.1,<0.2"]``.
        group: Entry-point group.

    Returns:
        The folder.
    """
    for path, source in modules.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(source), encoding="utf-8")
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    needed = "".join(f"Requires-Dist: {line}\n" for line in requires)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needed}", encoding="utf-8"
    )
    points = "".join(f"{point} = {module}\n" for point, module in entry_points.items())
    (info / "entry_points.txt").write_text(f"[{group}]\n{points}", encoding="utf-8")
    return folder
