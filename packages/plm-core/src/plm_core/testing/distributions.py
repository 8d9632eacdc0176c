"""Temporary distributions on disk, so that tests meet plug-ins in the form in which an installer leaves them."""

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
    """Write modules, and the metadata with which ``importlib.metadata`` sees an installed distribution.

    Args:
        folder: The folder to write to. Put it on ``sys.path`` (``monkeypatch.syspath_prepend``) to make its modules
            importable and its entry points visible.
        name: Name of the distribution.
        modules: Source of each module by its path, ``{"demo_plugin.py": "..."}``. The source is dedented.
        entry_points: Module of each entry point by its name, ``{"demo": "demo_plugin"}``.
        version: Version of the distribution.
        requires: Requirements, such as ``["plm-core>=0.1,<0.2"]``.
        group: Group of the entry points.

    Returns:
        The folder.
    """
    for path, source in modules.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(source), encoding="utf-8")
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    requirements = "".join(f"Requires-Dist: {line}\n" for line in requires)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requirements}", encoding="utf-8"
    )
    points = "".join(f"{point} = {module}\n" for point, module in entry_points.items())
    (info / "entry_points.txt").write_text(f"[{group}]\n{points}", encoding="utf-8")
    return folder
