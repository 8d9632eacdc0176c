"""Options that the commands of gaze share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ModelName = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="Name of a model of gaze, or folder of one; random:NAME for random weights. The default is a micro model "
        "that is shipped and was trained on drawn figures only.",
    ),
]
Release = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        help="File of the original's release, such as gazelle_dinov2_vitb14_inout.pt. The backbone is fetched from the "
        "Hugging Face Hub.",
    ),
]
