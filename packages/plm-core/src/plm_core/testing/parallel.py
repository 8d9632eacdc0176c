"""Count the parallel regions of torch on the CPU: how often a computation waits for a team of threads.

A region costs microseconds while every thread has a core of its own. Beside a busy process it costs up to a
scheduler's time slice, about ten milliseconds, however little is computed in it. So many small regions make a model
slow on a machine that is not idle, and no measurement on an idle machine shows it.
"""

from __future__ import annotations

import ctypes
import struct
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import local
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from plm_core.errors import NotSupported

SYMBOL = b"GOMP_parallel"
OUTSIDE = "outside operators"
"""The name for regions that were opened while no operator ran."""

_Body = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
_ENTRY = struct.Struct("QQ")
_RELOCATION = struct.Struct("QQq")
_SYMBOL_SIZE = 24


class Regions:
    """The regions that `count_regions` counted."""

    def __init__(self) -> None:
        self.by_operator: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """The number of regions."""
        return self.by_operator.total()


@contextmanager
def count_regions(threads: int = 2) -> Iterator[Regions]:
    """Count the parallel regions that torch opens inside a ``with`` block, and the operators that open them.

    The count is measured, not estimated: while the block runs, torch's calls into its OpenMP library (libgomp) go
    through a counter, which then lets the calling thread do the work of the whole team. So a busy machine changes
    neither the count nor the time that it takes, and answers are the same.

    The count holds the regions of ATen, MKL and oneDNN in ``libtorch_cpu.so``, in all threads of the process. It
    depends on their versions and on the processor. It does not hold regions inside other regions, which have one
    thread, those of other libraries (NumPy's BLAS), and threads that are not OpenMP's. Do not time
    the block, and let no other thread compute while it begins or ends.

        with count_regions() as regions:
            model(x)
        print(regions.total, regions.by_operator)

    Args:
        threads: Number of threads that torch may use in the block. With one there are no regions.

    Raises:
        NotSupported: torch does not call libgomp here, as on macOS and Windows.
    """
    slot = ctypes.c_void_p.from_address(_slot())
    previous, original = slot.value, _Body(_address())
    regions, operator, thread = Regions(), _Operator(), local()

    def count(body: int, data: int, number: int, flags: int) -> None:
        outer = getattr(thread, "outer", True)
        if outer and number != 1:
            regions.by_operator[operator.name] += 1
        thread.outer = False
        original(body, data, 1, flags)  # a team of one thread
        thread.outer = outer

    counted = _Body(count)  # kept alive as long as torch calls it
    torch_threads = torch.get_num_threads()
    torch.set_num_threads(threads)
    slot.value = ctypes.cast(counted, ctypes.c_void_p).value
    try:
        with operator:
            yield regions
    finally:
        slot.value = previous
        torch.set_num_threads(torch_threads)


class _Operator(TorchDispatchMode):
    """Remember the operator that runs."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.name = OUTSIDE

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.name = str(func)
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self.name = OUTSIDE


@cache
def _library() -> ctypes.CDLL:
    path = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    if not sys.platform.startswith("linux") or not path.exists():
        raise NotSupported("parallel regions are counted only where torch is built with libgomp, on Linux")
    return ctypes.CDLL(str(path))


@cache
def _address() -> int:
    """Return the address of libgomp's own function."""
    address = ctypes.cast(getattr(_library(), SYMBOL.decode()), ctypes.c_void_p).value
    if address is None:
        raise NotSupported(f"libgomp has no {SYMBOL.decode()}")
    return address


@cache
def _slot() -> int:
    """Return the address of the pointer through which torch calls libgomp, from the library's table of relocations.

    The tables are those of an ELF file of 64 bits; glibc has turned their offsets into addresses.
    """
    library = _library()
    link = ctypes.POINTER(ctypes.c_void_p * 3)()  # the base address, the path, and the address of the dynamic section
    if ctypes.CDLL(None).dlinfo(ctypes.c_void_p(library._handle), 2, ctypes.byref(link)):
        raise NotSupported("the dynamic section of libtorch_cpu.so cannot be read")
    base, _, dynamic = (address or 0 for address in link.contents)
    tables: dict[int, int] = {}
    while (entry := _ENTRY.unpack(ctypes.string_at(dynamic, _ENTRY.size)))[0]:
        tables[entry[0]] = entry[1]
        dynamic += _ENTRY.size
    strings, symbols, size, relocations = (tables.get(tag, 0) for tag in (5, 6, 2, 23))
    for offset, info, _ in _RELOCATION.iter_unpack(ctypes.string_at(relocations, size)):
        name = strings + ctypes.c_uint32.from_address(symbols + (info >> 32) * _SYMBOL_SIZE).value
        if ctypes.string_at(name, len(SYMBOL) + 1) == SYMBOL + b"\0":
            return int(base + offset)
    raise NotSupported(f"torch {torch.__version__} does not call {SYMBOL.decode()}")
