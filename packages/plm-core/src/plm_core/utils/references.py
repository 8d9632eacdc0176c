"""Strings that name things: ``module:attribute``, ``package:path`` and ``module:ClassName``."""

from __future__ import annotations

import difflib
import importlib
import sys
from importlib import util
from operator import attrgetter
from pathlib import Path
from typing import Any

from plm_core.errors import MissingDependency, PlmError, PluginError
from plm_core.utils.text import describe


def resolve(reference: str) -> Any:
    """Import and return what ``"module:attribute"`` names.

    Raises:
        MissingDependency: The module, or something that it imports, is not installed.
        PluginError: The reference is malformed, its module cannot be imported, or the module has no such attribute.
    """
    module_name, sep, attribute = reference.partition(":")
    if not (module_name and sep and attribute):
        raise PluginError(f"reference {reference!r} is not of the form 'module:attribute'")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as e:
        parent = (e.name or "").rpartition(".")[0]
        if parent in sys.modules and f"{module_name}.".startswith(f"{e.name}."):
            raise PluginError(f"{reference!r}: package {parent!r} has no module {e.name!r}") from e
        raise MissingDependency(f"{reference!r} needs the module {e.name!r}, which is not installed") from e
    except PlmError:
        raise
    except Exception as e:  # a module may fail in any way while it is imported
        raise PluginError(f"{reference!r} cannot be imported: {describe(e)}") from e
    try:
        return attrgetter(attribute)(module)  # a class inside a class has a dot
    except AttributeError:
        similar = difflib.get_close_matches(attribute, dir(module), n=1)
        hint = f"; did you mean {similar[0]!r}?" if similar else ""
        raise PluginError(f"module {module_name!r} has no attribute {attribute!r}{hint}") from None


def shipped_file(reference: str) -> Path:
    """Return the path of ``"package:path"``, a file that is shipped inside a distribution, without importing that.

    An import could wait for a thread that is importing the package, and that thread for the caller.

    Raises:
        PluginError: There is no such package.
    """
    package, _, path = reference.partition(":")
    spec = util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise PluginError(f"shipped file {reference!r}: there is no package {package!r}")
    return Path(spec.submodule_search_locations[0], path)


def class_paths(obj: object) -> list[str]:
    """Return ``"module:ClassName"`` for an object's class and its bases, nearest first."""
    return [f"{c.__module__}:{c.__qualname__}" for c in type(obj).__mro__]
