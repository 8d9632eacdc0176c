"""Images and videos to embeddings: from files, of which some may be unreadable, and from datasets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from pe_encoder.preprocessing import Preprocess
from plm_core import InputError
from plm_core.datasets import Captions, Dataset
from plm_core.embeddings.images import embed_dataset
from plm_core.models import input_of
from plm_core.prediction.reading import ImageFiles
from plm_core.utils.devices import autocast
from plm_core.utils.progress import track
from plm_core.video.file import Video

FRAMES = 8
"""Frames of a video, in the paper's benchmarks and in its training."""

Advance = Callable[[int], object]


def frame_numbers(length: int, frames: int = FRAMES) -> list[int]:
    """Return the numbers of the frames that stand for a video, the first and the last among them.

    Args:
        length: Number of frames of the video.
        frames: Number of frames to take. A video with fewer gives some of them several times.

    Raises:
        InputError: A number is less than one.

    Example:
        >>> frame_numbers(100, 4), frame_numbers(100, 1), frame_numbers(2, 4)
        ([0, 33, 66, 99], [50], [0, 0, 0, 1])
    """
    if min(length, frames) < 1:
        raise InputError(
            f"{frames} frames of a video of {length} were asked for; at least one of at least one is needed"
        )
    return [length // 2] if frames == 1 else [int(i * (length - 1) / (frames - 1)) for i in range(frames)]


def preprocess_of(model: nn.Module, mode: str = "squash") -> Preprocess:
    """Return the preprocessing of a model: to its own size, squashed or cut out of the middle."""
    size = input_of(model).size
    if size[1] != size[2]:
        raise InputError(f"the model takes images of {size[1]} x {size[2]} pixels; a square is needed")
    return Preprocess(size[1], mode)


def embed_images(
    model: Any,
    files: Sequence[Path],
    *,
    mode: str = "squash",
    batch_size: int = 64,
    num_workers: int = 0,
    dtype: str = "fp32",
    advance: Advance = lambda number: None,
) -> tuple[Tensor, dict[int, str]]:
    """Embed image files.

    Args:
        model: A CLIP from `plm_core.create_model`, in eval mode.
        files: The files.
        mode: ``squash`` or ``center``, see `pe_encoder.preprocess`.
        batch_size: Images per forward pass.
        num_workers: Processes that read images; with 0, this one does.
        dtype: Precision: fp32, or bf16 and fp16 by autocast.
        advance: A function that is told the number of files that are done.

    Returns:
        The embeddings of the files that can be read, float32 [N, E] on the CPU, not normalised, and why the others
        cannot, by their places in ``files``.
    """
    dataset = ImageFiles(files, preprocess_of(model, mode))
    vectors: list[Tensor] = []
    unreadable: dict[int, str] = {}
    for batch in embed_dataset(model, dataset, batch_size, num_workers, dtype):
        if batch.places:
            vectors.append(torch.from_numpy(batch.vectors))
        unreadable |= batch.unreadable
        advance(len(batch.places) + len(batch.unreadable))
    return torch.cat(vectors) if vectors else torch.empty(0, model.num_features), unreadable


@torch.inference_mode()
def embed_videos(
    model: Any,
    files: Sequence[Path],
    *,
    frames: int = FRAMES,
    mode: str = "squash",
    normalize: bool = False,
    advance: Advance = lambda number: None,
) -> tuple[Tensor, dict[int, str]]:
    """Embed video files, each as the mean of some of its frames.

    Args:
        model: A CLIP from `plm_core.create_model`, in eval mode.
        files: The files.
        frames: Frames per video, see `frame_numbers`.
        mode: ``squash`` or ``center``, see `pe_encoder.preprocess`.
        normalize: Whether to normalise the embeddings of the frames: True for retrieval, False for classification, in
            the official protocol.
        advance: A function that is told the number of files that are done.

    Returns:
        As of `embed_images`.
    """
    preprocess = preprocess_of(model, mode)
    device = next(model.parameters()).device
    vectors: list[Tensor] = []
    unreadable: dict[int, str] = {}
    for place, file in enumerate(files):
        try:
            pictures = read_frames(file, frames, preprocess)
            vectors.append(model.encode_video(pictures[None].to(device), normalize).cpu().float())
        except InputError as e:
            unreadable[place] = str(e)
        advance(1)
    return torch.cat(vectors) if vectors else torch.empty(0, model.num_features), unreadable


@torch.inference_mode()
def embed_data(
    model: Any,
    data: Dataset | Captions,
    *,
    frames: int = FRAMES,
    mode: str = "squash",
    normalize: bool = False,
    batch_size: int = 32,
    num_workers: int = 0,
    dtype: str = "fp32",
    progress: bool = True,
) -> Tensor:
    """Embed the images or videos of a dataset.

    Args:
        model: A CLIP from `plm_core.create_model`, in eval mode.
        data: Labelled images or videos, or those with captions.
        frames: Frames per video, see `frame_numbers`.
        mode: ``squash`` or ``center``, see `pe_encoder.preprocess`.
        normalize: Whether to normalise the embeddings of images, and those of the frames of a video.
        batch_size: Images or videos per forward pass.
        num_workers: Processes that read them; with 0, this one does.
        dtype: Precision: fp32, or bf16 and fp16 by autocast.
        progress: Whether to show a progress bar on a terminal.

    Returns:
        float32 [N, E] on the CPU.

    Raises:
        InputError: One cannot be read; the message names it.
    """
    encode = model.encode_image if data.kind == "images" else model.encode_video
    device = model.logit_scale.device
    loader = DataLoader(Inputs(data, preprocess_of(model, mode), frames), batch_size, num_workers=num_workers)
    vectors = [torch.empty(0, model.num_features)]
    for batch in track(loader, data.kind) if progress else loader:
        with autocast(device, dtype):
            vectors.append(encode(batch.to(device), normalize).float().cpu())
    return torch.cat(vectors)


class Inputs(torch.utils.data.Dataset[Tensor]):
    """The inputs of a model for the images, [3, H, W], or the videos, [frames, 3, H, W], of a dataset."""

    def __init__(self, data: Dataset | Captions, preprocess: Preprocess, frames: int) -> None:
        self.data = data
        self.preprocess = preprocess
        self.frames = frames

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Tensor:
        if self.data.kind == "images":
            return self.preprocess(self.data.image(index))
        video = self.data.video(index) if isinstance(self.data, Captions) else self.data.items[index]
        return read_frames(video, self.frames, self.preprocess)


def read_frames(file: str | Path | Video, frames: int, preprocess: Callable[[Any], Tensor]) -> Tensor:
    """Read the frames that stand for a video: float32 [frames, 3, H, W].

    Raises:
        InputError: The file is no video, or damaged.
        MissingDependency: PyAV is not installed: ``plm-core[video]``.
    """
    from torchvision.transforms.v2.functional import to_pil_image

    video = file if isinstance(file, Video) else Video(file)
    pictures = video.read(frame_numbers(len(video), frames))
    return torch.stack([preprocess(to_pil_image(picture.permute(2, 0, 1))) for picture in pictures])
