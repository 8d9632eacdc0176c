"""Pickles of plain values and NumPy arrays, read without running any code that they name."""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from plm_core import InputError
from plm_core.utils.text import first_line, shown


def read_plain_pickle(file: Path) -> Any:
    """Read a pickle that holds dicts, lists, tuples, sets, numbers, strings, bytes, None and NumPy arrays only.

    Whatever else it names is refused before it is imported. Arrays of numbers, of strings and of the values above are
    made by this module, which takes no more memory than the file has data. Pickles of Python 2 are read, too.

    Raises:
        InputError: The file cannot be read, is damaged, or holds anything else; the message names it.
    """
    try:
        data = file.read_bytes()
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name.endswith("PUT") and int(argument or 0) > len(data):  # it would reserve memory up to there
                raise pickle.UnpicklingError("damaged: it numbers more values than it has bytes")
        return _Unpickler(io.BytesIO(data), encoding="latin1").load()
    except OSError as e:
        raise InputError(f"pickle {str(file)!r} cannot be read: {e.strerror}") from e
    except Exception as e:  # a damaged pickle may raise anything
        raise InputError(f"pickle {str(file)!r} is refused: {first_line(e)}") from e


class _Dtype:
    """The type of an array's elements, as a pickle describes it."""

    def __init__(self, code: Any, *_: Any) -> None:
        text = code.decode("ascii") if isinstance(code, bytes) else str(code)
        if not re.fullmatch(r"b1|[iufSU]\d{1,6}|O8?", text):
            raise pickle.UnpicklingError(f"holds an array of {shown(text)}")
        self.dtype = np.dtype(text)

    def __setstate__(self, state: Any) -> None:
        order: Any = state[1].decode("ascii") if isinstance(state[1], bytes) else state[1]
        if self.dtype.kind != "O":
            self.dtype = self.dtype.newbyteorder(order)


class _Array(np.ndarray[Any, Any]):
    """An array that is filled after the size of its data has been compared with its shape."""

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        filled: Any = (1, *_checked(shape, dtype, data), bool(fortran), _bytes(data))
        super().__setstate__(filled)


def _array(*_: Any) -> _Array:
    return np.ndarray.__new__(_Array, (0,), "b1")


def _from_buffer(data: Any, dtype: Any, shape: Any, order: str) -> Any:
    sides, kind = _checked(shape, dtype, data)
    return np.frombuffer(_bytes(data), kind).reshape(sides, order="F" if order == "F" else "C").view(_Array)


def _scalar(dtype: Any, data: Any) -> Any:
    return np.frombuffer(_bytes(data), _checked((1,), dtype, data)[1])[0].item()


def _checked(shape: Any, dtype: Any, data: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return a shape and a dtype that the data fit.

    Raises:
        pickle.UnpicklingError: They do not fit.
    """
    if not isinstance(dtype, _Dtype) or not all(isinstance(side, int) and side >= 0 for side in shape):
        raise pickle.UnpicklingError("holds an array without a shape or a type")
    size = 1 if dtype.dtype.kind == "O" else dtype.dtype.itemsize
    if math.prod(shape) * size != len(data) or (dtype.dtype.kind == "O") != isinstance(data, list):
        raise pickle.UnpicklingError("holds an array that does not fit its data")
    return tuple(shape), dtype.dtype


def _bytes(data: Any) -> Any:
    return data.encode("latin1") if isinstance(data, str) else data


def _encode(text: str, encoding: str) -> bytes:
    """Return the bytes that older protocols write as text."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"holds text in {shown(encoding)}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """Return no bytes, for which older protocols call ``bytes()``. Given a number, that would reserve memory."""
    return b""


class _Call:
    """A function that a pickle may call, and can change nothing of."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("changes a function")


_ALLOWED = {
    "numpy.core.multiarray._reconstruct": _Call(_array),
    "numpy.core.multiarray.scalar": _Call(_scalar),
    "numpy.core.numeric._frombuffer": _Call(_from_buffer),
    "numpy.ndarray": _Call(_array),
    "numpy.dtype": _Call(_Dtype),
    "_codecs.encode": _Call(_encode),
    "collections.OrderedDict": OrderedDict,
    "builtins.bytes": _Call(_no_bytes),
    "builtins.frozenset": frozenset,
    "builtins.set": set,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        place = module.replace("numpy._core", "numpy.core").replace("__builtin__", "builtins")
        known = _ALLOWED.get(f"{place}.{name}")
        if known is None:
            raise pickle.UnpicklingError(f"it holds more than plain values and arrays ({shown(f'{module}.{name}')})")
        return known
