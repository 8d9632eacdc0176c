"""A video file whose frames are read by number.

Frames are counted in the order in which they are shown. PyAV decodes them (extra ``plm-core[video]``).

Shapes: H, W pixels; pixels are RGB.
"""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from plm_core.errors import InputError, MissingDependency

# Jumping to a key frame empties the decoder, which costs about as much as decoding a few frames. So a jump is made only
# if it spares the decoding of at least this many frames.
SPARED = 8
# Frames per second of a file that states no rate, as FFmpeg assumes for raw streams.
DEFAULT_RATE = 25


class Video:
    """A video file whose frames are read by number; ``len()`` counts them, and ``rate`` is their number per second.

    All packets are read once, without decoding, so the length is the number of frames that the file really holds,
    whatever its header says. In a truncated file it is the number of frames that are left. Rotations by quarter turns
    that the file specifies are applied. Pixels that are not square are left unchanged.

    Args:
        path: A file in any format that FFmpeg reads, or the contents of such a file.

    Attributes:
        name: The path, or words for contents, as error messages give it.

    Raises:
        MissingDependency: PyAV is not installed.
        InputError: The path is not a file, the file is not a video, or the video has no frames.
    """

    def __init__(self, path: str | Path | bytes) -> None:
        self._file = path if isinstance(path, bytes) else Path(path)
        self.name = _name(self._file)
        with _opened(self._file) as (container, stream):
            self._times, self._keys, self._length = _index(container, stream)
            self._tick = float(stream.time_base or 0)  # seconds per unit of the times
            self.rate = float(stream.average_rate or stream.guessed_rate or DEFAULT_RATE)
        if not self._times and self._length:  # no usable times, so only decoding can count the frames
            with _opened(self._file) as (container, stream):
                self._length = sum(1 for _ in _decoded(container, stream))
        if not self._length:
            raise InputError(f"{self.name} has no frames that can be decoded")
        if len(self._times) > 1 and self._tick:  # the header may state another rate
            self.rate = (len(self) - 1) / self.seconds(len(self) - 1)

    def __len__(self) -> int:
        return self._length

    def seconds(self, number: int) -> float:
        """Return the time at which a frame is shown, in seconds from the first frame.

        Args:
            number: Frame number, from 0. The number after the last frame's gives the end of the video.
        """
        if not (self._times and self._tick):
            return number / self.rate
        last = len(self) - 1
        passed = (self._times[min(number, last)] - self._times[0]) * self._tick
        return passed + max(number - last, 0) / self.rate

    def read(self, indices: Sequence[int], each: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Read frames by number, in one pass over the file.

        Only the frames that are read are converted to pixels.

        Args:
            indices: Frame numbers from 0 to ``len() - 1``, in any order, also repeated.
            each: Function that is applied to each frame, uint8 [H, W, 3], once it is decoded, for example to shrink it.

        Returns:
            Frames, uint8 [len(indices), H, W, 3], or the stacked results of ``each``.

        Raises:
            InputError: A frame does not exist or cannot be decoded.
        """
        numbers = sorted(set(indices))
        if not numbers or numbers[0] < 0 or numbers[-1] >= len(self):
            raise InputError(
                f"indices {list(indices)} must be one or more of the frames 0 to {len(self) - 1} of {self.name}"
            )
        pictures: dict[int, Tensor] = {}
        # Frames that a jump missed, because the decoder cannot start there, are decoded from the beginning.
        for runs in (self._runs(numbers), [(None, numbers)]):
            if len(pictures) < len(numbers):
                for number, picture in self._pictures(runs):
                    pictures[number] = picture if each is None else each(picture)
        missing = [i for i in numbers if i not in pictures]
        if missing:
            raise InputError(f"{self.name} is damaged: frame {missing[0]} of {len(self)} cannot be decoded")
        shapes = {tuple(picture.shape) for picture in pictures.values()}
        if len(shapes) > 1:
            raise InputError(f"{self.name} has frames of {len(shapes)} sizes: {', '.join(map(str, sorted(shapes)))}")
        return torch.stack([pictures[i] for i in indices])

    def frames(self, step: int = 1) -> Iterator[Tensor]:
        """Yield the frames in order, uint8 [H, W, 3], in one pass over the file that holds one frame at a time.

        Args:
            step: 1 for every frame, 4 for every fourth, from the first on.

        Raises:
            InputError: A frame cannot be decoded, or is not as large as the first one.
        """
        numbers = range(0, len(self), step)
        pictures = self._pictures([(None, numbers)])
        size: tuple[int, int] | None = None
        for expected in numbers:
            number, picture = next(pictures, (-1, None))
            if picture is None or number != expected:
                raise InputError(f"{self.name} is damaged: frame {expected} of {len(self)} cannot be decoded")
            height, width = picture.shape[:2]
            size = size or (width, height)
            if size != (width, height):
                raise InputError(
                    f"{self.name} has frames of several sizes: {size[0]} x {size[1]} pixels, and {width} x {height} "
                    f"from frame {number} on"
                )
            yield picture

    def _runs(self, numbers: Sequence[int]) -> list[tuple[int | None, list[int]]]:
        """Group frames into runs that are decoded without a jump, each with the key frame to jump to first, or None."""
        if not self._times:
            return [(None, list(numbers))]
        runs: list[tuple[int | None, list[int]]] = []
        position = 0  # number of the frame that would be decoded next
        for i in numbers:
            key = bisect_right(self._keys, self._times[i]) - 1
            spared = bisect_right(self._times, self._keys[key]) - 1 - position if key >= 0 else 0
            if spared >= SPARED:
                runs.append((self._keys[key], [i]))
            elif runs:
                runs[-1][1].append(i)
            else:
                runs.append((None, [i]))
            position = i + 1
        return runs

    def _pictures(self, runs: Sequence[tuple[int | None, Sequence[int]]]) -> Iterator[tuple[int, Tensor]]:
        from av.video.reformatter import VideoReformatter

        number_of = {time: number for number, time in enumerate(self._times)}
        reformatter = VideoReformatter()  # making one for each frame takes longer than converting a small frame
        with _opened(self._file) as (container, stream):
            for jump, run in runs:
                if jump is not None and not _sought(container, stream, jump):
                    continue
                for count, frame in enumerate(_decoded(container, stream)):
                    number = number_of.get(frame.pts, -1) if number_of else count
                    if number in run:
                        yield number, _picture(frame, reformatter)
                    if number >= run[-1]:
                        break


def require_av(extra: str = "plm-core[video]") -> None:
    """Check that PyAV is installed, which reads and writes videos.

    Args:
        extra: What to install for it.

    Raises:
        MissingDependency: It is not.
    """
    try:
        import av  # noqa: F401
    except ModuleNotFoundError as e:
        raise MissingDependency(f"video needs PyAV: install {extra}") from e


def check_video(path: Path) -> None:
    """Check that a file is a video, by its header only.

    Raises:
        MissingDependency: PyAV is not installed.
        InputError: The file is not a video.
    """
    with _opened(path):
        pass


def _name(file: Path | bytes) -> str:
    return "the video" if isinstance(file, bytes) else str(file)


@contextmanager
def _opened(file: Path | bytes) -> Iterator[tuple[Any, Any]]:
    """Open a file and yield its container and first video stream."""
    require_av()
    import av
    from av.stream import Disposition

    if isinstance(file, Path) and not file.is_file():
        raise InputError(f"path {str(file)!r} is not a file")
    source = f"file:{file}" if isinstance(file, Path) else io.BytesIO(file)  # else "a:b.mp4" would be a protocol
    try:
        container = av.open(source, metadata_errors="replace")
    except (av.FFmpegError, OSError) as e:
        raise InputError(f"{_name(file)} cannot be read as a video: {e.strerror}") from e
    with container:
        streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams or streams[0].codec_context is None:
            raise InputError(f"{_name(file)} has no video stream that can be decoded")
        streams[0].thread_type = "AUTO"
        if get_worker_info() is not None:  # DataLoader workers already run in parallel
            streams[0].codec_context.thread_count = 1
        try:
            yield container, streams[0]
        finally:
            # PyAV frees a decoder while it holds the GIL. If logging is on (torchvision 0.24 switches it on), a thread
            # of the decoder may wait for the GIL to log, and both wait forever. Flushing waits for the threads without.
            streams[0].codec_context.flush_buffers()


def _packets(container: Any, stream: Any) -> Iterator[Any]:
    import av

    try:
        yield from container.demux(stream)
    except av.FFmpegError:  # a truncated file ends here
        return


def _index(container: Any, stream: Any) -> tuple[list[int], list[int], int]:
    """Return the ascending times of the shown frames and of the key frames, and the number of shown packets.

    The times of the shown frames are empty if packets have none or share one, as in raw streams, because such packets
    cannot be told apart.
    """
    times, keys, shown = set(), set(), 0
    vp8 = stream.codec_context.name in ("vp8", "libvpx")
    for packet in _packets(container, stream):
        if not packet.size or packet.is_corrupt:
            continue
        if packet.is_keyframe and packet.pts is not None:
            keys.add(packet.pts)
        # Some packets are decoded but not shown: those cut off by an edit list, and VP8 frames without the "show" bit.
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
        except av.FFmpegError:  # the packet is damaged, but later ones may be whole
            continue


def _sought(container: Any, stream: Any, time: int) -> bool:
    import av

    try:
        container.seek(time, stream=stream)
    except av.FFmpegError:  # the index of the file is damaged
        return False
    return True


def _picture(frame: Any, reformatter: Any) -> Tensor:
    pixels = reformatter.reformat(frame, format="rgb24").to_ndarray()
    turns = round(frame.rotation / 90)  # quarter turns, counterclockwise, as numpy counts them
    return torch.from_numpy(np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels)
