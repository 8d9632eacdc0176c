"""Clips from video files, sampled as Hiera's recipes do: 16 frames, every fourth (Hiera paper, section 4.2).

    clip = read_clip("cat.mp4")                                   # uint8 [16, H, W, 3]
    probabilities = classify(model, "cat.mp4")                    # 5 clips x 3 crops, averaged
    data = VideoFolder("train", transform=per_clip(create_transform(224, is_training=True)))

Frames are counted in the order they are shown; times and frame rates play no part, so files without a rate, or with a
varying one, are read like others. Needs PyAV (extra ``hiera[video]``).

Shapes: T frames, H, W pixels; pixels are RGB.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset, get_worker_info

from hiera.configs import VIDEO_MEAN, VIDEO_STD
from plm_core import InputError, MissingDependency
from plm_core.hookspecs import Input

FRAMES, STRIDE = 16, 4
SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")
SPARED = 8  # frames that a jump must save: it empties the decoder, which costs about as much as a few frames

Pad = Literal["last"] | None
Frames = NDArray[np.uint8] | Tensor


class Video:
    """A video file whose frames are read by number; ``len()`` is how many there are.

    Its packets are read once, without decoding, so the length is what the file really holds and not what its header
    says: of a truncated file, the frames that are left. Rotations by quarter turns that the file asks for are done;
    non-square pixels are left as they are.

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
        """Frames by number, in any order, also repeated; decoded in one pass, and only they are converted.

        Args:
            indices: Numbers from 0 to ``len() - 1``.
            each: Applied to each frame, uint8 [H, W, 3], as it is decoded (to make it smaller, say).

        Returns:
            uint8 [len(indices), H, W, 3], or what ``each`` makes, stacked.

        Raises:
            InputError: There is no such frame, or it cannot be decoded.
        """
        wanted = sorted(set(indices))
        if not wanted or wanted[0] < 0 or wanted[-1] >= len(self):
            raise InputError(f"indices {list(indices)} must be some of the {len(self)} frames of {self.path}, from 0")
        pictures: dict[int, Tensor] = {}
        # what a jump has missed (a decoder that cannot start there) comes from the beginning
        for runs in (self._runs(wanted), [(None, wanted)]):
            if len(pictures) < len(wanted):
                for number, picture in self._pictures(runs):
                    pictures[number] = picture if each is None else each(picture)
        missing = [i for i in wanted if i not in pictures]
        if missing:
            raise InputError(f"{self.path} is damaged: frame {missing[0]} of {len(self)} cannot be decoded")
        return torch.stack([pictures[i] for i in indices])

    def _runs(self, wanted: Sequence[int]) -> list[tuple[int | None, list[int]]]:
        """Wanted frames that are decoded in one go, each time with the key frame to jump to first (None: no jump)."""
        if not self._times:
            return [(None, list(wanted))]
        runs: list[tuple[int | None, list[int]]] = []
        at = 0  # the next frame that decoding on would give
        for i in wanted:
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
        numbers = {time: number for number, time in enumerate(self._times)}
        with _opened(self.path) as (container, stream):
            for jump, wanted in runs:
                if jump is not None:
                    container.seek(jump, stream=stream)
                for count, frame in enumerate(_decoded(container, stream)):
                    number = numbers.get(frame.pts, -1) if numbers else count
                    if number in wanted:
                        yield number, _picture(frame)
                    if number >= wanted[-1]:
                        break


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """The container and its first video stream."""
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
    """Times of the shown frames and of the key frames, ascending, and the number of shown packets.

    The times are empty when packets lack them or share them, as in raw streams: the packets then cannot be told apart.
    """
    times, keys, shown = set(), set(), 0
    vp8 = stream.codec_context.name in ("vp8", "libvpx")
    for packet in _packets(container, stream):
        if not packet.size or packet.is_corrupt:
            continue
        if packet.is_keyframe and packet.pts is not None:
            keys.add(packet.pts)
        # decoded but not shown: what an edit list cuts off, and VP8's reference frames without the bit "show"
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


# --- clips ------------------------------------------------------------------------------------------------------


def read_clip(
    path: str | Path, frames: int = FRAMES, stride: int = STRIDE, start: int | None = None, pad: Pad = None
) -> Tensor:
    """Read one clip of a video file.

    Args:
        path: The file.
        frames: How many frames.
        stride: Every how manieth frame.
        start: Number of the first one; None for a clip from the middle.
        pad: ``last`` repeats the last frame of a video that is too short; None refuses it.

    Returns:
        uint8 [frames, H, W, 3].

    Raises:
        MissingDependency: PyAV is not installed.
        InputError: Not a video, damaged, or too short: the line says how many frames it has.
    """
    _check_sampling(frames, stride)
    video = Video(path)
    if start is None:
        start = _slack(len(video), frames, stride) // 2
    return video.read(_positions(len(video), frames, stride, start, pad, video.path))


def _check_sampling(frames: int, stride: int) -> None:
    for name, value in {"frames": frames, "stride": stride}.items():
        if not isinstance(value, int) or value < 1:
            raise InputError(f"{name} {value!r} is not allowed: a whole number from 1 is")


def _slack(length: int, frames: int, stride: int) -> int:
    """The last frame at which a clip can start; 0 in a video that is too short."""
    return max(length - (frames - 1) * stride - 1, 0)


def _positions(length: int, frames: int, stride: int, start: int, pad: Pad, what: Any) -> list[int]:
    if pad not in (None, "last"):
        raise InputError(f"pad {pad!r} is not allowed: 'last' and None are")
    if not 0 <= start < length:
        raise InputError(f"start {start} is outside {what}, which has {length} frames that can be decoded")
    needed = start + (frames - 1) * stride + 1
    if needed > length and pad is None:
        raise InputError(
            f"{what} has {length} frames that can be decoded; {frames} frames, stride {stride}, start {start} need "
            f"{needed} (pad='last' repeats the last one)"
        )
    return [min(start + i * stride, length - 1) for i in range(frames)]


# --- evaluation -------------------------------------------------------------------------------------------------


def input_of(model: nn.Module) -> Input:
    """What a video model eats: its size and frames; mean and std of its configuration, else Hiera's .45 and .225.

    Raises:
        InputError: The model does not take clips.
    """
    size: tuple[int, ...] = tuple(getattr(model, "input_size", ()))
    if len(size) != 3:
        raise InputError(f"model {type(model).__name__} has input_size {size}; (frames, height, width) is expected")
    cfg = getattr(model, "pretrained_cfg", None) or {}
    return Input(
        size=(getattr(model, "in_chans", 3), *size[1:]),
        frames=size[0],
        mean=tuple(cfg.get("mean", VIDEO_MEAN)),
        std=tuple(cfg.get("std", VIDEO_STD)),
        crop_pct=cfg.get("crop_pct") or 0.875,
    )


def views(
    video: str | Path | Frames,
    model: nn.Module | Input,
    clips: int = 5,
    crops: int = 3,
    stride: int = STRIDE,
    pad: Pad = None,
) -> Tensor:
    """The views of a video over which predictions are averaged (the paper's Kinetics evaluation: 5 clips x 3 crops).

    Clips are spread evenly from the first frame to the last. The short side is resized to the model's, and crops are
    spread evenly along the long one; a single crop is the centre of a picture that is larger by ``1 / crop_pct``. That
    is the custom of the field; the paper gives the numbers only.

    Args:
        video: A file, or all frames of a video, uint8 [N, H, W, 3].
        model: A video model, or what it eats.
        clips: Positions in time.
        crops: Positions in space.
        stride: Every how manieth frame.
        pad: As in `read_clip`.

    Returns:
        Normalised float32 [clips * crops, 3, T, H, W], the crops of a clip together.

    Raises:
        MissingDependency: PyAV is not installed.
        InputError: As `read_clip`, or an argument is out of range.
    """
    spec = model if isinstance(model, Input) else input_of(model)
    if spec.frames is None or spec.size[0] != 3:
        raise InputError(
            f"model eats {spec.size} and {spec.frames} frames; 3 channels and a number of frames are needed"
        )
    _check_sampling(spec.frames, stride)
    for name, value in {"clips": clips, "crops": crops}.items():
        if not isinstance(value, int) or value < 1:
            raise InputError(f"{name} {value!r} is not allowed: a whole number from 1 is")
    zoom = 1.0 if crops > 1 else 1 / spec.crop_pct
    fit = partial(_cover, size=spec.size[1:], zoom=zoom)
    if isinstance(video, str | Path):
        file = Video(video)
        small = file.read(_clip_positions(len(file), spec.frames, clips, stride, pad, file.path), fit)
    else:
        pictures = _as_frames(video)
        chosen = _clip_positions(len(pictures), spec.frames, clips, stride, pad, "the video")
        small = torch.stack([fit(pictures[i]) for i in chosen])
    cut = torch.stack([_crop(small, spec.size[1:], _share(i, crops)) for i in range(crops)])
    pixels = cut.unflatten(1, (clips, spec.frames)).permute(1, 0, 3, 2, 4, 5).flatten(0, 1).float() / 255
    mean, std = (torch.tensor(values).view(-1, 1, 1, 1) for values in (spec.mean, spec.std))
    return (pixels - mean) / std


def _as_frames(video: Frames) -> Tensor:
    pictures = torch.as_tensor(video)
    if pictures.dtype != torch.uint8 or pictures.ndim != 4 or pictures.shape[-1] != 3 or not pictures.numel():
        raise InputError(
            f"video is {pictures.dtype} {list(pictures.shape)}; uint8 [frames, height, width, 3] is expected"
        )
    return pictures


def _clip_positions(length: int, frames: int, clips: int, stride: int, pad: Pad, what: Any) -> list[int]:
    slack = _slack(length, frames, stride)
    starts = [round(slack * _share(i, clips)) for i in range(clips)]
    return [p for start in starts for p in _positions(length, frames, stride, start, pad, what)]


def _share(i: int, count: int) -> float:
    """Where the i-th of ``count`` lies between 0 and 1; a single one lies in the middle."""
    return i / (count - 1) if count > 1 else 0.5


def _cover(picture: Tensor, size: Sequence[int], zoom: float) -> Tensor:
    """uint8 [H, W, 3] -> uint8 [3, h, w], the smallest of its shape that covers ``size`` times ``zoom``."""
    height, width = picture.shape[:2]
    scale = zoom * max(size[0] / height, size[1] / width)
    target = (max(round(height * scale), size[0]), max(round(width * scale), size[1]))
    pixels = picture.movedim(-1, 0)[None]
    return F.interpolate(pixels, size=target, mode="bicubic", align_corners=False, antialias=True)[0]


def _crop(pictures: Tensor, size: Sequence[int], share: float) -> Tensor:
    """A crop of [..., h, w] at a share of the longer slack, in the middle of the other."""
    slack = [have - want for have, want in zip(pictures.shape[-2:], size, strict=True)]
    along = slack.index(max(slack))
    top, left = (round(s * (share if axis == along else 0.5)) for axis, s in enumerate(slack))
    return pictures[..., top : top + size[0], left : left + size[1]]


@torch.inference_mode()
def classify(
    model: nn.Module,
    video: str | Path | Frames,
    clips: int = 5,
    crops: int = 3,
    stride: int = STRIDE,
    pad: Pad = None,
) -> Tensor:
    """Class probabilities of a video, averaged over its `views`, which are run one at a time.

    Args:
        model: A video classifier in eval mode, on any device.
        video: A file, or all its frames, uint8 [N, H, W, 3].
        clips: As in `views`.
        crops: As in `views`.
        stride: As in `views`.
        pad: As in `views`.

    Returns:
        float32 [classes], on the CPU.

    Raises:
        InputError: As `views`; or the model is in training mode or has no classes.
    """
    if model.training:
        raise InputError("model is in training mode: call model.eval() first")
    if not getattr(model, "num_classes", 1):
        raise InputError(f"model {type(model).__name__} has no classes")
    weight = next(model.parameters())
    answers = [
        model(view.to(weight.device, weight.dtype)).float()
        for view in views(video, model, clips, crops, stride, pad).split(1)
    ]
    if not getattr(model, "probabilities", False):
        answers = [answer.softmax(-1) for answer in answers]
    return torch.cat(answers).mean(0).cpu()


# --- training ---------------------------------------------------------------------------------------------------


class VideoFolder(Dataset[tuple[Any, int]]):
    """Clips of the videos in ``root/class/clip.mp4``, with the number of their class.

    Args:
        root: Folder of folders; their sorted names are ``classes``. Names that begin with a dot are left out.
        frames: Frames of a clip.
        stride: Every how manieth frame.
        transform: Applied to the clip, uint8 [T, H, W, 3]; see `per_clip`.
        training: Clips start anywhere, drawn from torch's generator; otherwise they are from the middle.
        pad: As in `read_clip`.

    Raises:
        InputError: The folder, or a class in it, has no videos. On indexing: a video cannot be read; names the file.
    """

    def __init__(
        self,
        root: str | Path,
        frames: int = FRAMES,
        stride: int = STRIDE,
        transform: Callable[[Tensor], Any] | None = None,
        training: bool = True,
        pad: Pad = None,
    ) -> None:
        _check_sampling(frames, stride)
        root = Path(root)
        if not root.is_dir():
            raise InputError(f"root {str(root)!r} is not a folder")
        folders = sorted(f for f in root.iterdir() if f.is_dir() and not f.name.startswith("."))
        if not folders:
            raise InputError(f"root {str(root)!r} has no folders, one for each class")
        self.classes = [folder.name for folder in folders]
        self.samples: list[tuple[Path, int]] = []
        for label, folder in enumerate(folders):
            files = [f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES and not f.name.startswith(".")]
            if not files:
                raise InputError(f"class folder {str(folder)!r} has no videos ({', '.join(SUFFIXES)})")
            self.samples += [(file, label) for file in sorted(files)]
        self.frames, self.stride, self.pad = frames, stride, pad
        self.transform = transform
        self.training = training

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        path, label = self.samples[index]
        video = Video(path)
        slack = _slack(len(video), self.frames, self.stride)
        start = int(torch.randint(slack + 1, ())) if self.training else slack // 2
        clip = video.read(_positions(len(video), self.frames, self.stride, start, self.pad, path))
        return (clip if self.transform is None else self.transform(clip)), label


class per_clip:
    """Make a transform of images (timm's ``create_transform``, torchvision's) one of clips: ONE draw for all frames.

    Python's, NumPy's and torch's generators are set to the same seed before each frame, and put back in the end; the
    seed is drawn from torch's. A transform that keeps a generator of its own is not reached.

    Args:
        transform: PIL image -> float tensor [3, H, W].
    """

    def __init__(self, transform: Callable[[Any], Tensor]) -> None:
        self.transform = transform

    def __call__(self, clip: Frames) -> Tensor:
        """uint8 [T, H, W, 3] -> float [3, T, H, W].

        Raises:
            InputError: The clip has another form, or the transform does not end in a tensor.
        """
        pictures = [Image.fromarray(picture.numpy()) for picture in _as_frames(clip)]
        seed = int(torch.randint(2**32, ()))
        python, numpy = random.getstate(), np.random.get_state()
        try:
            with torch.random.fork_rng(devices=[]):
                frames = [self._transform(picture, seed) for picture in pictures]
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
        return torch.stack(frames, 1)

    def _transform(self, picture: Image.Image, seed: int) -> Tensor:
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)
        frame = self.transform(picture)
        if not isinstance(frame, Tensor):
            raise InputError(
                f"transform gives {type(frame).__name__}; it must end in a tensor [channels, height, width]"
            )
        return frame
