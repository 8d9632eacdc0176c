"""``plm gaze-app``: a local page on which one asks where people look."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from plm_core.cli.options import Device
from plm_core.utils.arguments import DEVICE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MICRO = "gazelle_micro_shapes"
NOTE = (
    "this is a tiny model, trained on a drawn world of simple figures. Its answers about photographs mean little; for "
    "photographs, start the page with --model and another model."
)
"""What the page says about a model that is trained on a drawn world."""


def app(
    model: Annotated[
        str,
        typer.Option(
            "--model",
            help="Name of a gaze model, or folder of one. The default is a tiny one that is shipped and knows a drawn "
            "world only.",
        ),
    ] = MICRO,
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

    page = build(Estimator(_gaze_model(model, device)), find_heads, note_of(model))
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


def note_of(name: str) -> str:
    """Return what the page says about a model: nothing, unless it is trained on a drawn world."""
    from plm_core.hookspecs import Model
    from plm_core.registry import registry

    declared = registry().all(Model).get(name.partition(".")[0])
    return NOTE if declared is not None and declared.declaration.micro is not None else ""


def _gaze_model(name: str, device: str) -> Any:
    """Create a gaze model with its weights.

    Raises:
        NotSupported: The model is of another kind.
    """
    from gazelle.model import GazeLLE
    from plm_core.errors import NotSupported
    from plm_core.models import create_model
    from plm_core.utils.devices import pick_device

    created = create_model(name, pretrained=True)
    if not isinstance(created, GazeLLE):
        raise NotSupported(f"model {name!r} is a {type(created).__name__}; plm gaze-app needs one that estimates gaze")
    return created.to(pick_device(device))
