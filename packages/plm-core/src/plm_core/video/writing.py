"""Videos written frame by frame, as MP4 files with H.264, which every player shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plm_core.errors import FileError, MissingDependency
from plm_core.video.file import require_av

TICKS = 90_000
"""Units of time in a second. It divides the durations of frames at 24, 25, 30, 50 and 60 frames a second evenly."""
CODEC = "libx264"
"""The encoder. The wheels of PyAV have it."""
BT709 = 1
"""The colours of HDTV, as FFmpeg numbers them."""
Add = Callable[[NDArray[np.uint8], float], None]


@contextmanager
def video_writer(path: Path, rate: float) -> Iterator[Add]:
    """Yield a function that adds a frame, uint8 [H, W, 3], and when it is shown, in seconds.

    All frames have one size. A side of an odd number of pixels gets another row, since the format stores colours for
    two by two pixels. The path is usually that of `plm_core.utils.files.atomic_path`.

    Args:
        path: The file to write, whatever its ending.
        rate: Frames per second, as the header states it.

    Raises:
        MissingDependency: PyAV is not installed, or has no encoder.
        FileError: The file cannot be written.
    """
    require_av()
    import av

    if CODEC not in av.codecs_available:
        raise MissingDependency(f"this PyAV has no encoder {CODEC}, which its wheels have")
    try:
        with av.open(f"file:{path}", "w", format="mp4", options={"movflags": "faststart"}) as container:
            writer = _Writer(container, rate)
            yield writer.add
            writer.close()
    except av.FFmpegError as e:
        raise FileError(f"cannot write a video: {e.strerror}") from e


class _Writer:
    """A video stream of a container, which begins with the first frame."""

    def __init__(self, container: Any, rate: float) -> None:
        self.container = container
        self.rate = rate
        self.stream: Any = None
        self.last = -1

    def add(self, pixels: NDArray[np.uint8], seconds: float) -> None:
        import av
        from av.video.reformatter import Colorspace

        height, width = pixels.shape[:2]
        if self.stream is None:
            self._start(width + width % 2, height + height % 2)
        even = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709)
        self.last = max(round(seconds * TICKS), self.last + 1)
        frame.pts, frame.time_base = self.last, Fraction(1, TICKS)
        self.container.mux(self.stream.encode(frame))

    def _start(self, width: int, height: int) -> None:
        rate = max(Fraction(self.rate).limit_denominator(1001), Fraction(1, 1001))
        self.stream = self.container.add_stream(CODEC, rate=rate, options={"crf": "20", "preset": "veryfast"})
        self.stream.width, self.stream.height, self.stream.pix_fmt = width, height, "yuv420p"
        context = self.stream.codec_context
        context.time_base = Fraction(1, TICKS)
        context.colorspace = context.color_primaries = context.color_trc = BT709

    def close(self) -> None:
        if self.stream is not None:
            self.container.mux(self.stream.encode(None))
