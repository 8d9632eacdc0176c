"""The command line of the measurements."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plm_core.utils.files import atomic_path, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Rows = Sequence[Mapping[str, Any]]


def run(
    name: str,
    description: str,
    *,
    measure: Callable[[Sequence[int]], Rows],
    plot: Callable[[Rows], Figure],
    summary: Callable[[Rows], Rows] | None = None,
) -> None:
    """Parse the command line, measure, write ``name.json`` and ``name.png`` into a folder, and print the rows.

    Args:
        name: Name of the two files.
        description: Text of ``--help``.
        measure: A function of the seeds that returns the rows.
        plot: A function of the rows that returns a figure.
        summary: A function of the rows that returns the rows to print (default: all).
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, required=True, help="Folder for the two files.")
    parser.add_argument("--seeds", type=int, default=3, help="Number of seeds (default: 3).")
    arguments = parser.parse_args()
    rows = measure(range(arguments.seeds))
    write_text(arguments.out / f"{name}.json", json.dumps(rows, indent=1))
    with atomic_path(arguments.out / f"{name}.png") as path:
        plot(rows).savefig(path, format="png", dpi=120)
    for row in rows if summary is None else summary(rows):
        print(row)
