"""The command that repeats the README's measurements: ``python -m gazelle.experiments [NAME ...] --out DIR``.

The tables of a measurement are written to DIR as NAME.json, and printed in Markdown.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch

import plm_core
from gazelle.experiments.ablation import backbones, markdown, prompting
from gazelle.micro.shapes import NAME
from plm_core.utils.files import write_text

NAMES = ("ablation",)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the README says about head boxes and about the backbone of the micro model."""
    parser = argparse.ArgumentParser(prog="python -m gazelle.experiments", description=main.__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(NAMES)} (default: all).")
    parser.add_argument("--out", type=Path, required=True, help="Folder for the results.")
    parser.add_argument(
        "--seeds", type=int, default=1, help="Trainings of each backbone; 0 measures head boxes alone (default: 1)."
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="Threads of torch.")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in NAMES]
    if unknown:
        parser.error(f"no measurement {unknown[0]!r}; there are {', '.join(NAMES)}")
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    shipped = plm_core.create_model(NAME, pretrained=True).eval()
    tables = {"head box": prompting(shipped)}
    if options.seeds:  # the shipped model is the tuned one of seed 0
        tables["backbone"] = backbones(range(options.seeds), {"tuned": shipped})
    write_text(options.out / "ablation.json", json.dumps(tables, indent=1))
    for rows in tables.values():
        print(markdown(rows), flush=True)


if __name__ == "__main__":
    main()
