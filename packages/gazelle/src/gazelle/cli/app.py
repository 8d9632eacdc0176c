"""``plm gaze-app``: a local page on which one asks where people look."""

from __future__ import annotations

from typing import Annotated

import typer

from gazelle.cli.options import ModelName, Release
from plm_core.cli.options import Device
from plm_core.utils.arguments import DEVICE


def app(
    model: ModelName = None,
    weights: Release = None,
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
    from gazelle.people.source import HeadSource

    loaded, source = load(model, weights, device), HeadSource()
    page = build(Estimator(loaded.model), lambda pixels: source.find(pixels, "the photo").boxes, loaded.note)
    typer.echo(f"page: {launch(page, port, browser=not no_browser)} (Ctrl-C stops it)", err=True)
    page.block_thread()
