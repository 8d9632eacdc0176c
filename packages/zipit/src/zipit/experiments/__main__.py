"""The command that repeats the README's measurements: ``python -m zipit.experiments [NAME ...] --out DIR``.

A measurement is written to DIR as NAME.json, and printed as tables. The plot of all is DIR/sweep.png. It takes a
quarter of an hour on a CPU.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from plm_core.utils.files import atomic_path, write_text
from zipit.experiments import digits
from zipit.experiments.digits import STUDIES

SEEDS = (0, 1, 2, 3, 4)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train networks on digits, merge them, and measure what the README says about it."""
    parser = argparse.ArgumentParser(prog="python -m zipit.experiments", description=main.__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(STUDIES)} (default: all).")
    parser.add_argument("--out", type=Path, required=True, help="Folder for the results.")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="Seeds that are reported.")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="Threads of torch.")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in STUDIES]
    if unknown:
        parser.error(f"no measurement {unknown[0]!r}; there are {', '.join(STUDIES)}")
    tuning = sorted(set(options.seeds) & set(digits.TUNING))
    if tuning:
        parser.error(f"a and b are chosen on seed {tuning[0]}, which is not to be reported")
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    found = {}
    for name in options.names or STUDIES:
        grid, rows = digits.measure(STUDIES[name], options.seeds)
        found[name] = rows
        write_text(options.out / f"{name}.json", json.dumps({"grid": grid, "rows": rows}, indent=1))
        print(f"{name}: {STUDIES[name].title}", digits.grid_table(grid), digits.table(rows), sep="\n\n", flush=True)
    figure = digits.plot(found)
    with atomic_path(options.out / "sweep.png") as part:
        figure.savefig(part, format="png", dpi=120)


if __name__ == "__main__":
    main()
