"""Models as programs for other runtimes: images and boxes in, heatmaps and scores out, all of them tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gazelle.model import GazeLLE
from plm_core.utils.files import atomic_path
from plm_core.utils.requirements import check_needs


class Exportable(nn.Module):
    """A model with tensors for inputs and outputs, for torch.export and torch.onnx.

    Args:
        model: The model. It is put into eval mode.
    """

    def __init__(self, model: GazeLLE) -> None:
        super().__init__()
        self.model = model.eval()

    def forward(self, images: Tensor, bboxes: Tensor) -> tuple[Tensor, ...]:
        """Return heatmaps [B, N, h, w], and scores [B, N] of a model that tells if a target is inside.

        Args:
            images: [B, 3, H, W].
            bboxes: Head boxes in fractions, [B, N, 4]. One without an area stands for a person without a box.
        """
        gaze: Any = self.model({"images": images, "bboxes": bboxes})
        return (gaze["heatmap"],) if gaze["inout"] is None else (gaze["heatmap"], gaze["inout"])


def export(model: GazeLLE) -> torch.export.ExportedProgram:
    """Export a model for any number of images and of people.

    Args:
        model: The model, on any device.

    Returns:
        A program with the inputs and outputs of `Exportable`.
    """
    weight = model.linear.weight
    images = torch.zeros(2, 3, *model.in_size, device=weight.device, dtype=weight.dtype)
    bboxes = torch.tensor([[[0.1, 0.1, 0.4, 0.4]] * 3] * 2, device=weight.device, dtype=weight.dtype)
    batch, people = torch.export.Dim("batch"), torch.export.Dim("people")
    shapes = {"images": {0: batch}, "bboxes": {0: batch, 1: people}}
    with torch.no_grad():
        return torch.export.export(Exportable(model), (images, bboxes), dynamic_shapes=shapes)


def export_onnx(model: GazeLLE, path: str | Path) -> None:
    """Write a model as ONNX, for any number of images and of people.

    The inputs are ``images`` and ``bboxes``, the outputs ``heatmap`` and, for a model that has it, ``inout``, see
    `Exportable`.

    Args:
        model: The model.
        path: The file to write.

    Raises:
        MissingDependency: onnx or onnxscript is not installed.
    """
    check_needs("export_onnx", ("gazelle[onnx]",))
    outputs = ["heatmap", "inout"] if model.has_inout else ["heatmap"]
    with atomic_path(Path(path)) as part:
        torch.onnx.export(export(model), f=part, output_names=outputs, external_data=False, verbose=False)
