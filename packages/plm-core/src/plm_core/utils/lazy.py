"""Package attributes that are imported when they are first used (PEP 562), so that importing a package stays light."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def attributes(
    package: str, distribution: str, names: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the ``__getattr__`` and ``__dir__`` of a package.

    Args:
        package: The package's ``__name__``.
        distribution: The distribution whose version is ``__version__``.
        names: Each attribute and the module that holds it. A submodule of the package has an empty string
            (``"weights": ""``).
    """

    def get(name: str) -> Any:
        if name == "__version__":
            from importlib.metadata import version

            value: Any = version(distribution)
        elif name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        elif names[name]:
            value = getattr(importlib.import_module(names[name]), name)
        else:
            value = importlib.import_module(f"{package}.{name}")
        setattr(sys.modules[package], name, value)
        return value

    def names_of() -> list[str]:
        return sorted({*vars(sys.modules[package]), *names, "__version__"})

    return get, names_of
