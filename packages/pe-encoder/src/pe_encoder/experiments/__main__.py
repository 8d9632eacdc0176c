"""The command that repeats the README's measurements: ``python -m pe_encoder.experiments [NAME ...] --out DIR``.

A measurement is written to DIR as NAME.json, and ``layers`` also as layers.png. A picture is written as NAME.png.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pe_encoder.clip import CLIP
from pe_encoder.experiments import dense, layers, pictures
from plm_core import InputError, create_model
from plm_core.utils.files import atomic_path, write_text

MODEL = "pe_micro_clip"
MEASURES: Mapping[str, Callable[[Any], list[dict[str, Any]]]] = {"dense": dense.measure, "layers": layers.measure}
PICTURES: Mapping[str, Callable[[Any], tuple[Any, float]]] = {
    "zeroshot": pictures.zero_shot,
    "textmap": pictures.text_map,
    "features": pictures.features,
}
NAMES = (*MEASURES, *PICTURES)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the README says about texts in scenes and about layers, and draw its pictures."""
    parser = argparse.ArgumentParser(prog="python -m pe_encoder.experiments", description=main.__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(NAMES)} (default: all).")
    parser.add_argument("--out", type=Path, required=True, help="Folder for the results.")
    parser.add_argument("--model", default=MODEL, help=f"A CLIP that knows the world of shapes (default: {MODEL}).")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="Threads of torch.")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in NAMES]
    if unknown:
        parser.error(f"no measurement {unknown[0]!r}; there are {', '.join(NAMES)}")
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    model = create_model(options.model, pretrained=True).eval()
    if not isinstance(model, CLIP):
        raise InputError(f"model {options.model!r} is a {type(model).__name__}; a CLIP is needed")
    for name in options.names or NAMES:
        if name in PICTURES:
            figure, score = PICTURES[name](model)
            print(name, score, sep="\n", flush=True)
        else:
            rows = MEASURES[name](model)
            write_text(options.out / f"{name}.json", json.dumps(rows, indent=1))
            print(name, *rows, sep="\n", flush=True)
            figure = layers.plot(rows) if name == "layers" else None
        if figure is not None:
            with atomic_path(options.out / f"{name}.png") as part:
                figure.savefig(part, format="png", dpi=120)


if __name__ == "__main__":
    main()
