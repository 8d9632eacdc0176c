"""What the packages require: every library that they import, and one range of versions of it whichever package asks."""

import ast
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = sorted(path.parent for path in ROOT.glob("packages/*/pyproject.toml"))
DISTRIBUTIONS = {
    "PIL": "pillow",
    "open_clip": "open-clip-torch",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
"""The distributions whose modules have other names."""


def read(folder):
    return tomllib.loads((folder / "pyproject.toml").read_text())


def requirements(file):
    """Return what a pyproject.toml requires: always, by its extras, and by its groups."""
    project = file["project"]
    lists = [project["dependencies"], *project.get("optional-dependencies", {}).values()]
    lists += file.get("dependency-groups", {}).values()
    return [Requirement(row) for rows in lists for row in rows if isinstance(row, str)]


def only_for_types(tree):
    """Return the nodes below ``if TYPE_CHECKING:``, which do not run."""
    blocks = [
        node.body for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
    ]
    return {node for block in blocks for statement in block for node in ast.walk(statement)}


def imported(source):
    """Return the names of the modules that a source imports when it runs, wherever in it."""
    tree = ast.parse(source)
    names = set()
    for node in set(ast.walk(tree)) - only_for_types(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module)
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names


def test_a_library_has_the_same_range_everywhere():
    ranges = {}
    for folder in (ROOT, *PACKAGES):
        for row in requirements(read(folder)):
            if row.specifier:  # the workspace names its own packages without one
                ranges.setdefault(row.name, {}).setdefault(str(row.specifier), []).append(folder.name)
    assert {"torch", "numpy", "pytest"} <= ranges.keys()
    assert {name: found for name, found in ranges.items() if len(found) > 1} == {}


@pytest.mark.parametrize("folder", PACKAGES, ids=lambda folder: folder.name)
def test_a_package_requires_every_library_that_it_imports(folder):
    """An extra that requires it is enough. What another package requires is no promise."""
    required = {folder.name, *(row.name for row in requirements(read(folder)))}
    missing = {}
    for path in folder.rglob("src/**/*.py"):
        for name in imported(path.read_text()):
            distribution = DISTRIBUTIONS.get(name, name.replace("_", "-"))
            if distribution not in required:
                missing.setdefault(distribution, []).append(str(path.relative_to(folder)))
    assert missing == {}


def test_imports_that_run():
    source = """
import os.path, torch.nn as nn
from . import near
from .there import it
if TYPE_CHECKING:
    import av
    from pandas import DataFrame
else:
    import rich
def late():
    from PIL import Image
if typing.TYPE_CHECKING:
    import ray
"""
    assert imported(source) == {"torch", "rich", "PIL"}
