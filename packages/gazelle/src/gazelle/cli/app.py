"""``plm gaze-app``: a local page on which one asks where people look."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from plm_core.cli.options import Device
from plm_core.utils.arguments import DEVICE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def app(
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="Name of a model of gaze, or folder of one; random:NAME for random weights. The default is a micro "
            "model that is shipped and was trained on drawn figures only.",
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights",
            help="File of the original's release, such as gazelle_dinov2_vitb14_inout.pt. The backbone is fetched from "
            "the Hugging Face Hub.",
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option("--port", min=1, max=65535, help="Port of the page (default: the first free one from 7860)."),
    ] = None,
    device: Device = DEVICE,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Print the address of the page only, and open no browser.")
    ] = False,
) -> None:
    """Show a page of this computer, on which you drop a photo and see where each person looks. Ctrl-C stops it."""
    from gazelle.app.page import build, launch  # first, so that a missing gradio is said before a model is made
    from gazelle.estimation import Estimator
    from gazelle.loading import load

    loaded = load(model, weights, device)
    page = build(Estimator(loaded.model), find_heads, loaded.note)
    typer.echo(f"page: {launch(page, port, browser=not no_browser)} (Ctrl-C stops it)", err=True)
    page.block_thread()


def find_heads(pixels: NDArray[np.uint8]) -> list[list[float]]:
    """Find heads with the detector of this package.

    Args:
        pixels: uint8 [H, W, 3].

    Returns:
        Boxes (x0, y0, x1, y1) in fractions.
    """
    from gazelle import people

    height, width = pixels.shape[:2]
    boxes = people.find_heads(pixels).boxes.tolist()
    return [[x0 / width, y0 / height, x1 / width, y1 / height] for x0, y0, x1, y1 in boxes]
