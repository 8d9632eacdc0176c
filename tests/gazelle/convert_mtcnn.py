"""The conversion of MTCNN's weights from the wheel mtcnn 1.0.0 (PyPI, MIT), run once: ``weights/mtcnn.safetensors``.

    uv run --with lz4 python tests/gazelle/convert_mtcnn.py mtcnn-1.0.0-py3-none-any.whl mtcnn.safetensors

The wheel has a list of arrays for each network, written by joblib. Reading such a file may run code, as with any
pickle, so the wheel's digest is checked before.
"""

from __future__ import annotations

import hashlib
import io
import sys
import zipfile
from pathlib import Path
from typing import Any

import joblib
import torch
from torch import Tensor, nn

from gazelle.people.mtcnn import Mtcnn
from plm_core import weights
from plm_core.errors import InputError

DIGEST = "0a96b4868e56db9ae984449519642be6dba03240e608a67e928ebb47833e9144"
"""The sha256 of the wheel."""
FILES = {"proposal": "pnet", "refinement": "rnet", "output": "onet"}


def convert(wheel: Path, out: Path) -> None:
    """Write the weights of the three networks in a wheel as one safetensors file.

    Raises:
        InputError: The file is not the wheel that this was written for.
    """
    contents = wheel.read_bytes()
    if (digest := hashlib.sha256(contents).hexdigest()) != DIGEST:
        raise InputError(f"wheel {str(wheel)!r} has sha256 {digest}; that of mtcnn 1.0.0, {DIGEST}, is allowed")
    state: dict[str, Tensor] = {}
    with zipfile.ZipFile(io.BytesIO(contents)) as archive:
        for network, file in FILES.items():
            arrays = joblib.load(io.BytesIO(archive.read(f"mtcnn/assets/weights/{file}.lz4")))
            stage = getattr(Mtcnn(), network)
            state |= {f"{network}.{key}": value for key, value in _state(stage, arrays).items()}
    weights.write(state, out)


def _state(stage: nn.Module, arrays: list[Any]) -> dict[str, Tensor]:
    """Return a network's state from arrays: the body, the shifts, the landmarks (third network only), the logits."""
    shapes = {key: value.shape for key, value in stage.state_dict().items()}
    body = [key for key in shapes if key.startswith("body.")]
    keys = dict(zip(body, arrays, strict=False))
    keys |= {"box.weight": arrays[len(body)], "box.bias": arrays[len(body) + 1]}
    keys |= {"face.weight": arrays[-2], "face.bias": arrays[-1]}
    return {key: _tensor(key, torch.from_numpy(array)).reshape(shapes[key]) for key, array in keys.items()}


def _tensor(key: str, array: Tensor) -> Tensor:
    """Return an array in torch's order. Kernels come as [H, W, I, O] and dense layers as [I, O]."""
    if array.ndim == 4:
        return array.permute(3, 2, 0, 1)
    if array.ndim == 2 and key.startswith("body."):
        # 3 x 3 features, which come flattened as [W, H, C] and are [C, H, W] here
        return array.view(3, 3, -1, array.shape[1]).permute(3, 2, 1, 0)
    return array.T if array.ndim == 2 else array


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
