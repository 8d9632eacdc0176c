"""The command that repeats the README's measurements: ``python -m tome.experiments [FIGURE ...] --out DIR``.

Each figure is written to DIR as FIGURE.json, the numbers, and FIGURE.png. ``accuracy`` and ``rotary`` take half an hour
on two CPU cores; when they are stopped they continue where they were. It needs the extra ``tome[train]``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plm_core.utils.files import atomic_path, write_text
from tome.experiments import merging, studies
from tome.experiments.report import plot_merging, plot_studies, table

STUDIES_OF = {"accuracy": ("digits", "shapes"), "rotary": ("rotary",)}
"""The studies that each figure shows; the figure "merging" shows none."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and plot the figures of the README."""
    parser = argparse.ArgumentParser(prog="python -m tome.experiments", description=main.__doc__)
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help="merging, accuracy or rotary (default: all).")
    parser.add_argument("--out", type=Path, required=True, help="Folder for the results.")
    parser.add_argument("--seeds", type=int, default=3, help="Number of seeds for accuracy and rotary (default: 3).")
    options = parser.parse_args(arguments)
    figures = options.figures or ["merging", *STUDIES_OF]
    unknown = [name for name in figures if name not in ("merging", *STUDIES_OF)]
    if unknown:
        parser.error(f"no figure {unknown[0]!r}; there are merging, {' and '.join(STUDIES_OF)}")
    options.out.mkdir(parents=True, exist_ok=True)
    for figure in figures:
        if figure == "merging":
            rows = merging.measure()
            _write(options.out / figure, rows, plot_merging(rows))
            print(*rows, sep="\n", flush=True)
            continue
        by_study = {
            name: [row for seed in range(options.seeds) for row in studies.measure(name, seed, options.out)]
            for name in STUDIES_OF[figure]
        }
        _write(options.out / figure, by_study, plot_studies(by_study))
        for name, rows_of_study in by_study.items():
            print(f"{name}\n\n{table(rows_of_study)}\n", flush=True)


def _write(path: Path, results: Any, plot: Any) -> None:
    """Write the numbers and the plot of a figure."""
    write_text(path.with_suffix(".json"), json.dumps(results, indent=1))
    with atomic_path(path.with_suffix(".png")) as part:
        plot.savefig(part, format="png", dpi=120)


if __name__ == "__main__":
    main()
