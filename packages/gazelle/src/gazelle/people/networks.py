"""The three networks of MTCNN (arXiv 1604.02878, figure 2), without their outputs for landmarks.

Each takes RGB pictures, float32 [B, 3, H, W] from about -1 to 1, and returns the probability of a face and the shifts
of the four sides of its box (x0, y0, x1, y1), in widths and heights of the box that was looked at. The proposal network
is convolutional: it looks at every window of `CELL` pixels, `STRIDE` apart.
"""

from __future__ import annotations

from torch import Tensor, nn

CELL, STRIDE = 12, 2
"""The window of the proposal network and the step between two windows, in pixels."""
REFINE_SIZE, OUTPUT_SIZE = 24, 48
"""The sides of the crops that the second and the third network take."""


class Stage(nn.Module):
    """One network of the cascade: a body, and an output each for the probability and for the shifts.

    Args:
        body: All layers up to the features.
        face: The layer from the features to two logits: no face, a face.
        box: The layer from the features to four shifts.
    """

    def __init__(self, body: nn.Module, face: nn.Module, box: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.face = face
        self.box = box

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return probabilities [B, ...] and shifts [B, 4, ...]."""
        features = self.body(x)
        return self.face(features).softmax(1)[:, 1], self.box(features)


def proposal() -> Stage:
    """Return the network that looks at all windows of a picture."""
    body = nn.Sequential(*_convolution(3, 10), _pool(2), *_convolution(10, 16), *_convolution(16, 32))
    return Stage(body, nn.Conv2d(32, 2, 1), nn.Conv2d(32, 4, 1))


def refinement() -> Stage:
    """Return the network that takes crops of `REFINE_SIZE`."""
    body = nn.Sequential(
        *(*_convolution(3, 28), _pool(3)),
        *(*_convolution(28, 48), _pool(3)),
        *_convolution(48, 64, 2),
        *_dense(64 * 9, 128),
    )
    return Stage(body, nn.Linear(128, 2), nn.Linear(128, 4))


def output() -> Stage:
    """Return the network that takes crops of `OUTPUT_SIZE`."""
    body = nn.Sequential(
        *(*_convolution(3, 32), _pool(3)),
        *(*_convolution(32, 64), _pool(3)),
        *(*_convolution(64, 64), _pool(2)),
        *_convolution(64, 128, 2),
        *_dense(128 * 9, 256),
    )
    return Stage(body, nn.Linear(256, 2), nn.Linear(256, 4))


def _convolution(inputs: int, outputs: int, side: int = 3) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(inputs, outputs, side), nn.PReLU(outputs)


def _pool(side: int) -> nn.Module:
    return nn.MaxPool2d(side, 2, ceil_mode=True)  # Caffe, which the weights come from, rounds up


def _dense(inputs: int, outputs: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    return nn.Flatten(), nn.Linear(inputs, outputs), nn.PReLU(outputs)
