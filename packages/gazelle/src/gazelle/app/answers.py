"""What the page shows of where a person looks: words, a picture of the heatmap, and the JSON that is downloaded."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gazelle.estimation import Look

COLOURS = ("#d81b60", "#1565c0", "#2e7d32", "#b35900", "#7b1fa2", "#00758f", "#c62828", "#5d4037")
"""The colour of each person in turn. White text can be read on all of them."""
OPACITY = 0.8
"""The opacity of a heatmap where its value is 1."""
LONGEST = 1600
"""The longer side in pixels of the copy of a photo that the page shows."""
WORDS = ((0.85, "Very likely looks at something in the picture"), (0.5, "Probably looks at something in the picture"))
NEGATIVE_WORDS = ((0.15, "Very likely looks out of the picture"), (0.5, "Probably looks out of the picture"))


def colour_of(number: int) -> str:
    """Return the colour of the person with a number, which counts from 1."""
    return COLOURS[(number - 1) % len(COLOURS)]


def inside_words(inside: float | None) -> str:
    """Say how likely a target is inside the picture.

    Args:
        inside: The probability, or None if the model does not tell.
    """
    if inside is None:
        return "This model does not tell whether the target is in the picture."
    words = next((words for bound, words in WORDS if inside >= bound), None)
    if words is None:
        words = next(words for bound, words in NEGATIVE_WORDS if inside <= bound)
    return f"{words} ({inside:.0%} inside)."


def data_uri(picture: Image.Image, file_format: str) -> str:
    """Return a picture as an address that holds its contents, so that the page needs no file of it."""
    file = io.BytesIO()
    picture.save(file, format=file_format)
    return f"data:image/{file_format.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def shown_copy(picture: Image.Image) -> str:
    """Return a photo as the address of a JPEG that is small enough for a page."""
    copy = picture.convert("RGB")
    copy.thumbnail((LONGEST, LONGEST))
    return data_uri(copy, "JPEG")


def heatmap_picture(heatmap: NDArray[np.float32], colour: str) -> Image.Image:
    """Return a heatmap in one colour, RGBA of its size, the more opaque the higher it is.

    Args:
        heatmap: Values from 0 to 1, [h, w]; others are clipped.
        colour: A colour such as "#1565c0".
    """
    alpha = (heatmap.clip(0, 1) * 255 * OPACITY).round().astype(np.uint8)
    picture = Image.new("RGBA", (heatmap.shape[1], heatmap.shape[0]), colour)
    picture.putalpha(Image.fromarray(alpha))
    return picture


def person(number: int, look: Look) -> dict[str, Any]:
    """Return what the page draws of one person.

    Args:
        number: The number of the person, from 1.
        look: Where this person looks.
    """
    colour = colour_of(number)
    return {
        "number": number,
        "colour": colour,
        "box": list(look.box or ()),
        "point": list(look.point),
        "inside": look.inside,
        "words": inside_words(look.inside),
        "score": round(look.score, 4),
        "heatmap": data_uri(heatmap_picture(look.heatmap, colour), "PNG"),
    }


def report(name: str, size: tuple[int, int], numbers: Sequence[int], looks: Sequence[Look]) -> dict[str, Any]:
    """Return the JSON that is downloaded: boxes and points in pixels of the upright photo and in fractions, and scores.

    Args:
        name: File name of the photo.
        size: Its width and height in pixels, upright.
        numbers: The number of each person.
        looks: Where each of them looks.
    """
    people = [
        {
            "person": number,
            "box": _both(look.box or (), size),
            "point": _both(look.point, size),
            "score": round(look.score, 6),
            "inside": None if look.inside is None else round(look.inside, 6),
        }
        for number, look in zip(numbers, looks, strict=True)
    ]
    return {"photo": name, "width": size[0], "height": size[1], "people": people}


def _both(places: Sequence[float], size: tuple[int, int]) -> dict[str, list[float]]:
    """Return x and y in turn as pixels and as fractions."""
    return {
        "pixels": [round(place * size[i % 2], 2) for i, place in enumerate(places)],
        "fractions": [round(place, 6) for place in places],
    }
