"""Folders of captions: of any images or videos, and of the world of shapes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import starmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from plm_core.datasets.captions.layout import ROWS
from plm_core.errors import FileError, InputError, MissingDependency
from plm_core.utils.files import write_text
from plm_core.utils.text import first_line

RATE = 25
"""Frames per second of the videos."""
Medium = Image.Image | NDArray[np.uint8]


def write_captions(folder: str | Path, items: Iterable[tuple[Medium, str | Sequence[str]]]) -> Path:
    """Write a folder of images or videos with captions, which `plm_core.datasets.load_captions` reads.

    The images become ``images/000000.png`` ..., the videos ``videos/000000.mp4`` ... without loss, and
    ``captions.jsonl`` is written last. So a folder that was not finished is none of captions.

    Args:
        folder: The folder. It need not exist.
        items: Each a PIL image that PNG can hold, pixels uint8 [H, W, 3] or the frames of a video uint8 [T, H, W, 3],
            with its caption or its captions.

    Returns:
        The path of ``captions.jsonl``.

    Raises:
        InputError: The folder has captions already, there are no items, or one is of another form.
        FileError: A file cannot be written.
        MissingDependency: PyAV is needed for videos and is not installed.
    """
    folder = Path(folder)
    if (folder / ROWS).exists():
        raise InputError(f"folder {str(folder)!r} has a file {ROWS} already; name another folder")
    try:
        rows = list(starmap(_Writer(folder), enumerate(items)))
    except OSError as e:
        raise FileError(f"cannot write to {folder}: {first_line(e)}") from e
    if not rows:
        raise InputError("items is empty; one image or video with a caption is the least")
    write_text(folder / ROWS, "".join(rows))
    return folder / ROWS


def write_shapes(
    folder: str | Path,
    kind: str = "images",
    *,
    train: int = 800,
    val: int = 200,
    size: int = 64,
    frames: int = 16,
    seed: int = 0,
    **options: Any,
) -> None:
    """Write scenes or clips of `plm_core.shapes` with their captions, in ``train/`` and ``val/``.

    Args:
        folder: The folder. It need not exist.
        kind: ``images`` for scenes, ``videos`` for clips.
        train: Number of scenes or clips to train on, of the split "train".
        val: Number of scenes or clips to judge a training on, of the split "heldout".
        size: Height and width in pixels.
        frames: Frames in a clip.
        seed: Random seed of the world.
        **options: Further options of `plm_core.shapes.Images` or `plm_core.shapes.Clips`.

    Raises:
        InputError: There is no such kind, or the folder has captions already.
        ValueError: An option is out of range.
        FileError: A file cannot be written.
        MissingDependency: PyAV is needed for clips and is not installed.
    """
    from plm_core import shapes

    if kind not in ("images", "videos"):
        raise InputError(f"kind is {kind!r}; images and videos are allowed")
    for name, split, count in (("train", "train", train), ("val", "heldout", val)):
        world = {"size": size, "count": count, "seed": seed, **options}
        items: Iterator[tuple[Medium, str]]
        if kind == "images":
            items = ((scene.image, scene.caption) for scene in shapes.Images(split, **world))
        else:
            items = ((clip.frames, clip.caption) for clip in shapes.Clips(split, frames=frames, **world))
        write_captions(Path(folder) / name, items)


class _Writer:
    """Writes one item after the other, and returns their rows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, number: int, item: tuple[Medium, str | Sequence[str]]) -> str:
        medium, caption = item
        video = isinstance(medium, np.ndarray) and medium.ndim == 4
        name = f"videos/{number:06}.mp4" if video else f"images/{number:06}.png"
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(medium, Image.Image):
            _write_image(path, medium, number)
        elif video and _are_pixels(medium):
            write_video(path, medium)
        elif _are_pixels(medium) and medium.ndim == 3:
            Image.fromarray(medium).save(path)
        else:
            raise InputError(
                f"item {number} is {_form(medium)}; a PIL image or uint8 [H, W, 3] or [T, H, W, 3] is allowed"
            )
        texts = {"caption": caption} if isinstance(caption, str) else {"captions": list(caption)}
        return json.dumps({"video" if video else "image": name, **texts}, ensure_ascii=False) + "\n"


def _are_pixels(medium: Any) -> bool:
    return isinstance(medium, np.ndarray) and medium.dtype == np.uint8 and medium.shape[-1:] == (3,) and medium.size > 0


def _form(medium: Any) -> str:
    return f"{medium.dtype} {list(medium.shape)}" if isinstance(medium, np.ndarray) else f"a {type(medium).__name__}"


def _write_image(path: Path, image: Image.Image, number: int) -> None:
    try:
        image.save(path)
    except OSError as e:
        if e.errno is not None:
            raise
        raise InputError(f"item {number} cannot be written as PNG: {first_line(e)}") from e  # CMYK, floats


def write_video(path: Path, frames: NDArray[np.uint8], rate: int = RATE) -> None:
    """Write a video without loss, by H.264.

    Args:
        path: The file.
        frames: Pixels, uint8 [T, H, W, 3].
        rate: Frames per second.

    Raises:
        MissingDependency: PyAV is not installed.
    """
    try:
        import av
    except ModuleNotFoundError as e:
        raise MissingDependency("writing video needs PyAV: install plm-core[video]") from e
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264rgb", rate=rate, options={"crf": "0", "preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "rgb24"
        for pixels in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode(None))
