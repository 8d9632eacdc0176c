"""The command that repeats the README's measurements: ``python -m hydra_attn.experiments [FIGURE ...] --out DIR``.

Each figure is written to DIR as FIGURE.json, the numbers, and FIGURE.png. ``accuracy`` and ``heads`` take hours on two
CPU cores. When they are stopped they continue where they were. They need the extra ``hydra-attn[train]``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from hydra_attn import scaling
from hydra_attn.experiments import accuracy, heads, models
from plm_core.utils.files import atomic_path, write_text

TOKENS = (197, 577, 1025, 2048, 4096, 8100)
Measured = tuple[list[Any], Any]


def _scaling(options: argparse.Namespace) -> Measured:
    rows = scaling.measure(TOKENS)
    return rows, scaling.plot(rows)


def _models(options: argparse.Namespace) -> Measured:
    rows = models.measure(models.NAME, models.SIZES)
    return rows, models.plot(rows)


def _accuracy(options: argparse.Namespace) -> Measured:
    rows = [row for seed in options.seeds for row in accuracy.measure(seed, options.out)]
    return rows, accuracy.plot(rows)


def _heads(options: argparse.Namespace) -> Measured:
    rows = [row for seed in options.seeds for row in heads.measure(seed, options.out)]
    return rows, heads.plot(rows)


FIGURES: Mapping[str, Callable[[argparse.Namespace], Measured]] = {
    "scaling": _scaling,
    "models": _models,
    "accuracy": _accuracy,
    "heads": _heads,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and plot the figures of the README."""
    parser = argparse.ArgumentParser(prog="python -m hydra_attn.experiments", description=main.__doc__)
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help=f"{', '.join(FIGURES)} (default: all).")
    parser.add_argument("--out", type=Path, required=True, help="Folder for the results.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="Seeds of accuracy and heads.")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="Threads of torch.")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.figures if name not in FIGURES]
    if unknown:
        parser.error(f"no figure {unknown[0]!r}; there are {', '.join(FIGURES)}")
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.figures or FIGURES:
        rows, figure = FIGURES[name](options)
        write_text(options.out / f"{name}.json", json.dumps(rows, indent=1))
        with atomic_path(options.out / f"{name}.png") as part:
            figure.savefig(part, format="png", dpi=120)
        print(name, *rows, sep="\n", flush=True)


if __name__ == "__main__":
    main()
