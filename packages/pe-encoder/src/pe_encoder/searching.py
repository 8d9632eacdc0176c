"""The images that fit a text best, and a contact sheet of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from plm_core import InputError
from plm_core.utils.images import Channels, open_image

SIDE = 160
"""Side of an image on a contact sheet, in pixels."""
LINE = 16
"""Height of the line of text below an image, in pixels."""
COLUMNS = 5
"""Images in a row of a contact sheet."""


@torch.no_grad()
def nearest(model: Any, text: str, vectors: NDArray[Any], top: int = 10) -> list[tuple[int, float]]:
    """Return the rows of embeddings that are nearest to a text.

    Args:
        model: A CLIP.
        text: The text.
        vectors: Embeddings of images by the same model, [N, E], in any floating dtype.
        top: Number of rows.

    Returns:
        The rows and their cosines with the text, nearest first.

    Raises:
        InputError: The embeddings are not as wide as the model's.
    """
    if vectors.ndim != 2 or vectors.shape[1] != model.num_features:
        raise InputError(f"the embeddings are {list(vectors.shape)}; the model's are [images, {model.num_features}]")
    query = model.encode_text(model.tokenizer()(text).to(model.logit_scale.device), normalize=True).cpu().float()
    images = F.normalize(torch.from_numpy(np.asarray(vectors, dtype=np.float32)), dim=-1)
    best = (images @ query[0]).topk(min(top, len(images)))
    return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))


def contact_sheet(images: Sequence[tuple[Path, str]]) -> Image.Image:
    """Draw images in rows of five, each with a line of text below. A file that is gone leaves its place grey.

    Small images are enlarged by a whole factor.
    """
    rows = -(-len(images) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * SIDE, max(rows, 1) * (SIDE + LINE)), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (path, line) in enumerate(images):
        left, top = number % COLUMNS * SIDE, number // COLUMNS * (SIDE + LINE)
        try:
            picture = Channels(3)(open_image(path))
        except InputError:
            picture = Image.new("RGB", (SIDE, SIDE), "lightgrey")
        if (factor := (SIDE - 4) // max(picture.size)) > 1:
            picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
        picture.thumbnail((SIDE - 4, SIDE - 4))
        sheet.paste(picture, (left + (SIDE - picture.width) // 2, top + (SIDE - picture.height) // 2))
        pen.text((left + 4, top + SIDE), f"{line} {path.name}"[:26], fill="black")
    return sheet
