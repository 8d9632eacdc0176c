"""A video file whose frames are read by number.

Frames are counted in the order in which they are shown. PyAV decodes them (extra ``hiera[video]``).

Shapes: H, W pixels; pixels are RGB.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from plm_core import InputError, MissingDependency

# A jump to a key frame must save this many frames: it empties the decoder, which costs about as much as a few frames.
SPARED = 8


class Video:
    """A video file whose frames are read by number; ``len()`` is their number.

    Its packets are read once, without decoding, so the length is the number of frames that the file holds, whatever its
    header says; a truncated file has the frames that are left. Rotations by quarter turns that the file asks for are
    applied. Pixels that are not square are left unchanged.

    Args:
        path: A file in any format that FFmpeg reads.

    Raises:
        MissingDependency: PyAV is not installed.
        InputError: Not a file, not a video, or one without frames.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with _opened(self.path) as (container, stream):
            self._times, self._keys, self._length = _index(container, stream)
        if not self._times and self._length:  # packets without usable times: only decoding tells
            with _opened(self.path) as (container, stream):
                self._length = sum(1 for _ in _decoded(container, stream))
        if not self._length:
            raise InputError(f"{self.path} has no frames that can be decoded")

    def __len__(self) -> int:
        return self._length

    def read(self, indices: Sequence[int], each: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Read frames by number, in any order and also repeatedly, in one pass; only these are converted.

        Args:
            indices: Numbers from 0 to ``len() - 1``.
            each: Function of a frame, uint8 [H, W, 3], applied as soon as it is decoded, for example to shrink it.

        Returns:
            uint8 [len(indices), H, W, 3], or the results of ``each``, stacked.

        Raises:
            InputError: There is no such frame, or it cannot be decoded.
        """
        numbers = sorted(set(indices))
        if not numbers or numbers[0] < 0 or numbers[-1] >= len(self):
            raise InputError(f"indices {list(indices)} must be some of the {len(self)} frames of {self.path}, from 0")
        pictures: dict[int, Tensor] = {}
        # Frames that a jump missed, because the decoder cannot start there, are decoded from the beginning.
        for runs in (self._runs(numbers), [(None, numbers)]):
            if len(pictures) < len(numbers):
                for number, picture in self._pictures(runs):
                    pictures[number] = picture if each is None else each(picture)
        missing = [i for i in numbers if i not in pictures]
        if missing:
            raise InputError(f"{self.path} is damaged: frame {missing[0]} of {len(self)} cannot be decoded")
        return torch.stack([pictures[i] for i in indices])

    def _runs(self, numbers: Sequence[int]) -> list[tuple[int | None, list[int]]]:
        """Group frames into runs decoded in one go, each with the key frame to jump to first (None: no jump)."""
        if not self._times:
            return [(None, list(numbers))]
        runs: list[tuple[int | None, list[int]]] = []
        at = 0  # number of the frame that decoding would reach next
        for i in numbers:
            key = bisect_right(self._keys, self._times[i]) - 1
            spared = bisect_right(self._times, self._keys[key]) - 1 - at if key >= 0 else 0
            if spared >= SPARED:
                runs.append((self._keys[key], [i]))
            elif runs:
                runs[-1][1].append(i)
            else:
                runs.append((None, [i]))
            at = i + 1
        return runs

    def _pictures(self, runs: Sequence[tuple[int | None, Sequence[int]]]) -> Iterator[tuple[int, Tensor]]:
        number_of = {time: number for number, time in enumerate(self._times)}
        with _opened(self.path) as (container, stream):
            for jump, run in runs:
                if jump is not None:
                    container.seek(jump, stream=stream)
                for count, frame in enumerate(_decoded(container, stream)):
                    number = number_of.get(frame.pts, -1) if number_of else count
                    if number in run:
                        yield number, _picture(frame)
                    if number >= run[-1]:
                        break


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """Open the container and its first video stream."""
    try:
        import av
        from av.stream import Disposition
    except ModuleNotFoundError as e:
        raise MissingDependency("reading video needs PyAV: install hiera[video]") from e
    if not path.is_file():
        raise InputError(f"path {str(path)!r} is not a file")
    try:
        container = av.open(f"file:{path}")  # the prefix: a name like "a:b.mp4" is a file, not a protocol
    except (av.FFmpegError, OSError) as e:
        raise InputError(f"{path} cannot be read as a video: {e.strerror}") from e
    with container:
        streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams or streams[0].codec_context is None:
            raise InputError(f"{path} has no video stream that can be decoded")
        streams[0].thread_type = "AUTO"
        if get_worker_info() is not None:  # the workers of a DataLoader are the threads
            streams[0].codec_context.thread_count = 1
        yield container, streams[0]


def _packets(container: Any, stream: Any) -> Iterator[Any]:
    import av

    try:
        yield from container.demux(stream)
    except av.FFmpegError:  # the end of a truncated file
        return


def _index(container: Any, stream: Any) -> tuple[list[int], list[int], int]:
    """Return the ascending times of the shown frames and of the key frames, and the number of shown packets.

    The times are empty when packets lack them or share them, as in raw streams: the packets then cannot be told apart.
    """
    times, keys, shown = set(), set(), 0
    vp8 = stream.codec_context.name in ("vp8", "libvpx")
    for packet in _packets(container, stream):
        if not packet.size or packet.is_corrupt:
            continue
        if packet.is_keyframe and packet.pts is not None:
            keys.add(packet.pts)
        # Some packets are decoded but not shown: those an edit list cuts off, and VP8's frames without the bit "show".
        if not (packet.is_discard or (vp8 and not bytes(packet)[0] & 0x10)):
            shown += 1
            times.add(packet.pts)
    reliable = len(times) == shown and None not in times
    return (sorted(times) if reliable else []), sorted(keys), shown


def _decoded(container: Any, stream: Any) -> Iterator[Any]:
    import av

    for packet in _packets(container, stream):
        try:
            yield from packet.decode()
        except av.FFmpegError:  # a damaged packet; what can be decoded after it still counts
            continue


def _picture(frame: Any) -> Tensor:
    pixels = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90)  # quarter turns, counterclockwise, as numpy counts them
    return torch.from_numpy(np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels)
