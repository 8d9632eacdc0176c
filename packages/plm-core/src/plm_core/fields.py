"""The base of declarations: dataclasses that say in plain words which field does not exist or is lacking."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import MISSING, fields
from typing import Any, Self

_collecting: ContextVar[bool] = ContextVar("collecting", default=False)


class Invalid:
    """A stand-in for an object that could not be made, until whoever collects the objects reports it.

    Args:
        fault: What is wrong, with the class and the name of the object.
    """

    def __init__(self, fault: str) -> None:
        self.fault = fault


@contextmanager
def collecting() -> Iterator[None]:
    """Make an `Invalid` where a `Fields` would raise, so that one wrong object of a list does not lose the others."""
    token = _collecting.set(True)
    try:
        yield
    finally:
        _collecting.reset(token)


class Fields:
    """The base of dataclasses whose constructors are called by authors of plug-ins."""

    def __new__(cls, *args: Any, **values: Any) -> Self:
        """Look at the names of the arguments before they are taken.

        Raises:
            TypeError: A field does not exist or is lacking. The message names the class, and the object if it has a
                name.
        """
        fault = _fault(cls, values) if values else ""  # none: a copy, or an object whose fields all have defaults
        if not fault:
            return super().__new__(cls)
        if _collecting.get():
            return Invalid(fault)  # type: ignore[return-value]
        raise TypeError(fault)


def _fault(cls: Any, values: Mapping[str, Any]) -> str:
    known = {field.name: field for field in fields(cls) if field.init}
    named = values.get("name", values.get("tag"))
    who = cls.__name__ + (f" {reprlib.repr(named)}" if type(named) is str else "")
    for name in values:
        if name not in known:
            import difflib  # only now, since declarations are read whenever the command line starts

            similar = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {similar[0]!r}?" if similar else f"there are: {', '.join(known)}"
            return f"{who} has no field {reprlib.repr(name)}; {hint}"
    required = [name for name, f in known.items() if f.default is MISSING and f.default_factory is MISSING]
    lacking = [name for name in required if name not in values]
    return f"{who} lacks {', '.join(lacking)}" if lacking else ""
