"""What somebody asks: a question, and the images and videos that it is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from plm_core.errors import InputError
from plm_core.lm.chat import IMAGE
from plm_core.utils.endings import VIDEOS
from plm_core.utils.images import open_image

if TYPE_CHECKING:
    from plm_core.lm.tiling import Picture
    from plm_core.video.clips import Frames

Box: TypeAlias = Sequence[float]
"""The corners x0, y0, x1, y1 of a region, in pixels of the image or of the frames."""


@dataclass(frozen=True, kw_only=True)
class VideoClip:
    """A video, or a part of one.

    Attributes:
        source: A file, or frames, uint8 [T, H, W, 3], of which each becomes a chunk.
        start: Start of the part in seconds; None for the beginning.
        end: End of the part in seconds; None for the end.
        box: A region that is drawn on each frame in red, as the region tasks of the paper have it; None for none.
    """

    source: str | Path | Frames
    start: float | None = None
    end: float | None = None
    box: Box | None = None


Medium: TypeAlias = "str | Path | Picture | VideoClip"
"""An image (a file, a PIL image, or pixels, uint8 [H, W, 3]), or a video (a file by its ending, or a `VideoClip`)."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A question with its media.

    Attributes:
        text: The question, or messages ``{"role": "user", "content": "..."}`` of a conversation. ``<image>`` and
            ``<video>`` mark the places of media. Without them all media come first.
        media: Images and videos, in the order of their marks.
        boxes: Regions of the one image. ``<|bbox0|>`` in the text stands for the first.
    """

    text: str | Sequence[Mapping[str, Any]]
    media: Sequence[Medium] = field(default=())
    boxes: Sequence[Box] = field(default=())

    def __post_init__(self) -> None:
        if isinstance(self.media, str | Path):
            raise InputError("media is one path; a list of images and videos is expected")
        if self.boxes and (len(self.media) != 1 or video_of(self.media[0])):
            raise InputError("boxes are regions of one image; a VideoClip has a box of its own")

    @property
    def questions(self) -> list[str]:
        """The texts of the user."""
        if isinstance(self.text, str):
            return [self.text]
        return [str(message.get("content", "")) for message in self.text if message.get("role") == "user"]


def video_of(medium: Medium) -> VideoClip | None:
    """Return a medium that is a video; None for an image."""
    if isinstance(medium, VideoClip):
        return medium
    if isinstance(medium, str | Path) and Path(medium).suffix.lower() in VIDEOS:
        return VideoClip(source=medium)
    return None


def picture_of(medium: Medium) -> Picture:
    """Return a medium that is an image, which is read if it is a file.

    Raises:
        InputError: It is a video, or cannot be read.
    """
    if isinstance(medium, VideoClip):
        raise InputError("the medium is a video, where an image is expected")
    return open_image(medium) if isinstance(medium, str | Path) else medium


def marked(text: str, media: Sequence[Medium]) -> str:
    """Return a question with a mark in front for each of its media."""
    return IMAGE * len(media) + text
