"""The words of the world: its splits, and the names and colours in options, captions and labels.

This module imports nothing heavy, so that a plug-in can declare the labels of a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

RGB = tuple[float, float, float]

SPLITS = ("train", "heldout")
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "crescent")
PALETTE: Mapping[str, RGB] = MappingProxyType(
    {
        "red": (212, 35, 40),
        "orange": (245, 135, 25),
        "yellow": (245, 220, 50),
        "green": (40, 155, 65),
        "cyan": (70, 215, 225),
        "blue": (40, 80, 215),
        "purple": (125, 45, 175),
        "pink": (250, 150, 200),
        "white": (245, 245, 245),
        "black": (15, 15, 15),
    }
)
COLOURS = tuple(PALETTE)
CLOTHES: Mapping[str, RGB] = MappingProxyType(
    {
        "navy": (34, 44, 96),
        "maroon": (110, 30, 52),
        "olive": (112, 112, 48),
        "teal": (26, 106, 108),
        "lilac": (166, 150, 192),
    }
)
SIZES = ("small", "large")
MOTIONS = ("still", "left", "right", "up", "down", "grow", "shrink", "spin", "blink")
BACKGROUNDS = ("plain", "gradient", "clutter")
