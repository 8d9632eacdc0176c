"""Images read from files, also by the workers of a DataLoader."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from plm_core.errors import InputError
from plm_core.utils.images import open_image


class ImageFiles(Dataset[Any]):
    """A dataset of image files as tensors. Where a file cannot be read, its item is the error.

    Args:
        files: The files.
        preprocess: Function from a PIL image to a tensor [C, H, W].
        contents: The contents of the files, where they are known already; None for a file that is to be read.
    """

    def __init__(
        self,
        files: Sequence[Path],
        preprocess: Callable[[Image.Image], Tensor],
        contents: Sequence[bytes | None] | None = None,
    ) -> None:
        self.files = files
        self.preprocess = preprocess
        self.contents = contents

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Path, Tensor | InputError]:
        file = self.files[index]
        try:
            return file, self.preprocess(open_image(file, self.contents[index] if self.contents else None))
        except InputError as e:
            return file, e
