"""One library has one range of versions, whichever package asks for it."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]


def test_a_library_has_the_same_range_everywhere():
    ranges = {}
    for path in [ROOT / "pyproject.toml", *ROOT.glob("packages/*/pyproject.toml")]:
        file = tomllib.loads(path.read_text())
        project = file["project"]
        lists = [project["dependencies"], *project.get("optional-dependencies", {}).values()]
        lists += file.get("dependency-groups", {}).values()
        for row in (Requirement(row) for rows in lists for row in rows if isinstance(row, str)):
            if row.specifier:  # the workspace names its own packages without one
                ranges.setdefault(row.name, {}).setdefault(str(row.specifier), []).append(path.parent.name)
    assert {"torch", "numpy", "pytest"} <= ranges.keys()
    assert {name: found for name, found in ranges.items() if len(found) > 1} == {}
