"""The page, from gradio: a photo goes in, and ``stage.js`` draws the answers of a `gazelle.app.session.Desk`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gazelle.app.answers import COLOURS
from gazelle.app.session import START, Desk, Finder, Photo
from gazelle.estimation import Estimator
from plm_core.errors import InputError, MissingDependency, PlmError

try:
    import gradio
except ImportError as e:
    raise MissingDependency("the page needs gradio: install gazelle[app]") from e

HOST = "127.0.0.1"
TITLE = "Where is each person looking?"
HOUR = 3600
"""Seconds after which the server forgets a photo that nobody asks about, and the copy of its file."""
LARGEST = "100mb"
"""The largest file that the page takes."""
CSS = "#gaze-stage .html-container { padding: 10px 0; }"


def build(estimator: Estimator, find_heads: Finder, note: str = "") -> gradio.Blocks:
    """Return the page.

    It also answers programs, as ``gradio_client`` has it: ``/gaze`` takes a photo and boxes in fractions (None to find
    heads) and returns the JSON that the page lets one download.

    Args:
        estimator: The model.
        find_heads: The detector of heads: pixels uint8 [H, W, 3] -> boxes (x0, y0, x1, y1) in fractions.
        note: What the page says about the model, above all.
    """
    desk = Desk(estimator, find_heads)
    with gradio.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(HOUR // 2, HOUR)) as page:
        gradio.Markdown(f"# {TITLE}\nChoose a photo. It stays on this computer.")
        if note:
            gradio.Markdown(f"**Note:** {note}", elem_id="gaze-note")
        file = gradio.File(label="Photo", file_types=["image"], height=140, elem_id="gaze-file")
        photo = gradio.State(None, time_to_live=HOUR)
        stage = _stage()
        _connect(desk, file, photo, stage)
        _serve(desk)
    return page


def _stage() -> gradio.HTML:
    """Return what shows the photo, the boxes and the answers."""
    here = Path(__file__).parent
    html, css, js = ((here / f"stage.{ending}").read_text(encoding="utf-8") for ending in ("html", "css", "js"))
    return gradio.HTML(
        value={"key": 0, "turn": 0, "message": START},
        html_template=html,
        css_template=css,
        js_on_load=f"const COLOURS = {json.dumps(COLOURS)};\n{js}",
        apply_default_css=False,
        elem_id="gaze-stage",
    )


def _connect(desk: Desk, file: gradio.File, photo: gradio.State, stage: gradio.HTML) -> None:
    """Let a new photo be opened, and the questions of the browser be answered."""

    def ask(opened: Photo | None, event: gradio.EventData) -> dict[str, Any]:
        asked = event._data if isinstance(event._data, dict) else {}
        turn = asked.get("turn")
        return desk.answer(opened, asked.get("people"), turn if isinstance(turn, int) else 0)

    file.change(desk.first, file, [photo, stage], show_progress="minimal", api_visibility="private")
    stage.input(ask, photo, stage, show_progress="hidden", trigger_mode="multiple", api_visibility="private")


def _serve(desk: Desk) -> None:
    """Answer programs."""

    def gaze(path: str | None, boxes: Any) -> dict[str, Any]:
        try:
            return desk.report(path, boxes)
        except PlmError as e:
            raise gradio.Error(str(e), print_exception=False) from e

    file = gradio.File(label="photo", visible=False)
    boxes = gradio.JSON(label="boxes", visible=False)
    answer = gradio.JSON(label="answer", visible=False)
    gradio.on([], gaze, [file, boxes], answer, api_name="gaze")


def launch(page: gradio.Blocks, port: int | None = None, browser: bool = True) -> str:
    """Serve the page to this computer only, and return at once. ``page.block_thread()`` waits for Ctrl-C.

    Nothing is loaded from elsewhere, nor reported to anyone.

    Args:
        page: The page.
        port: Its port. None for the first free one from 7860.
        browser: Whether to show it in a browser.

    Returns:
        Its address.

    Raises:
        InputError: The port is not free.
    """
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    try:
        _, url, _ = page.launch(
            server_name=HOST,
            server_port=port,
            share=False,
            inbrowser=browser,
            quiet=True,
            prevent_thread_lock=True,
            ssr_mode=False,
            footer_links=[],
            max_file_size=LARGEST,
            theme=gradio.themes.Default(**fonts),
            css=CSS,
        )
    except OSError as e:
        raise InputError(f"port {port or 'from 7860'} cannot be used: it is not free") from e
    return str(url)
