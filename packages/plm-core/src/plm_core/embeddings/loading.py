"""Models by name, ready to embed, and what their embeddings depend on."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from plm_core.embeddings.digests import preprocessing_digest, weights_digest
from plm_core.errors import NotSupported
from plm_core.models import create_model
from plm_core.packing import NAME as PACKED
from plm_core.packing import check_fast
from plm_core.prediction.tasks import modality_of, prepare
from plm_core.sources.timm import folder_of
from plm_core.utils.devices import pick_device
from plm_core.utils.files import existing_folder

INPUTS = {"video": "videos", "audio": "sounds"}
"""What models of other modalities than images take, in words."""


@dataclass(frozen=True)
class Job:
    """A model and how it is run.

    Attributes:
        model: Name of the model, for `plm_core.create_model`.
        transforms: Transforms to apply to it, as `plm_core.transforms.parse` reads them.
        device: Device, see `plm_core.utils.devices.pick_device`.
        dtype: Precision: fp32, bf16 or fp16.
        fast: Whether to apply the transform ``packed`` too, on the CPU.
    """

    model: str
    transforms: tuple[str, ...]
    device: str
    dtype: str
    fast: bool

    @property
    def all_transforms(self) -> tuple[str, ...]:
        """The transforms, with the one that ``fast`` stands for."""
        return (*self.transforms, PACKED) if self.fast else self.transforms


@dataclass(frozen=True)
class Loaded:
    """A model that is ready, with the digests of its weights and of its preprocessing."""

    model: nn.Module
    weights: str
    preprocessing: str


def load(job: Job) -> Loaded:
    """Create the model of a job with its weights, on its device and in eval mode.

    Raises:
        NotSupported: The model takes clips or sounds.
        WeightsError: The weights are not finite.
        InputError: The device cannot be used, or does not go with ``fast``.
        PlmError: The model or a transform cannot be had; see `plm_core.create_model` and `plm_core.apply`.
    """
    device = pick_device(job.device)
    if job.fast:
        check_fast(device, job.dtype)
    model = create_model(job.model, pretrained=True).eval()
    if (modality := modality_of(model)) != "image":
        raise NotSupported(f"model {job.model!r} takes {INPUTS[modality]}; only models of images embed a folder")
    # before the transforms, since packed depends on the machine
    weights, preprocessing = weights_digest(model), preprocessing_digest(model)
    return Loaded(prepare(model, job.model, job.transforms, device, fast=job.fast), weights, preprocessing)


def full_name(name: str) -> str:
    """Return the name of a model such that it means the same in any folder: that of a folder has its full path."""
    source, _, path = name.partition(":")
    if source.lower() == "transformers":
        folder = existing_folder(path) if path else None
        return f"{source}:{folder.resolve()}" if folder else name
    folder = folder_of(name)
    return f"local-dir:{folder.resolve()}" if folder else name
