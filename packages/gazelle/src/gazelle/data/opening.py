"""A dataset of any format, found by the names of its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gazelle.data.annotations import Annotations
from gazelle.data.childplay import read_childplay
from gazelle.data.gazefollow import read_gazefollow
from gazelle.data.goo import read_goo
from gazelle.data.jsons import read_json
from gazelle.data.videoattentiontarget import read_vat
from plm_core import InputError
from plm_core.utils.ranges import check_choice

FORMATS = ("gazefollow", "vat", "childplay", "goo", "json")
PICKLES = (".pkl", ".pickle")


@dataclass(frozen=True)
class Opened:
    """A dataset that was read.

    Attributes:
        format: One of `FORMATS`.
        annotations: The pictures and the people.
    """

    format: str
    annotations: Annotations

    @property
    def benchmark(self) -> str:
        """The published metrics for it: "vat" for frames of clips, else "gazefollow"."""
        return "vat" if self.annotations.scenes[0].clip else "gazefollow"


def open_gaze(
    data: str | Path,
    split: str = "test",
    format: str | None = None,
    images: str | Path | None = None,
    skip: bool = False,
) -> Opened:
    """Read a dataset.

    Args:
        data: A folder of GazeFollow, VideoAttentionTarget or ChildPlay, a JSON file that the original writes, or a
            pickle of GOO-Real.
        split: The split of a folder. A file has none.
        format: One of `FORMATS`; None finds it by `format_of`.
        images: The folder of the images for a file; None for the file's own.
        skip: Whether broken rows are left out, and are no error.

    Raises:
        InputError: The data are not of the format, or of none, or there is a folder of images beside a folder.
    """
    if format is not None:
        check_choice("format", format, FORMATS)
    found = format or format_of(data, split)
    folders = {"gazefollow": read_gazefollow, "vat": read_vat, "childplay": read_childplay}
    if found in folders and images is not None:
        raise InputError(f"images is {str(images)!r}, which is for a file; a folder of {found} has its own images")
    if found in folders:
        return Opened(found, folders[found](data, split, skip))
    return Opened(found, read_json(data, images, skip) if found == "json" else read_goo(data, images, skip=skip))


def format_of(data: str | Path, split: str = "test") -> str:
    """Return the format of a dataset, one of `FORMATS`, by the names of its files.

    Raises:
        InputError: It is none of them, or does not exist.
    """
    path = Path(data)
    if not path.exists():
        raise InputError(f"data {str(data)!r} does not exist; a folder of gaze, a .json file or a pickle is allowed")
    annotations = path / "annotations" / split
    signs = {
        "gazefollow": (path / f"{split}_annotations_release.txt").is_file(),
        "vat": next(annotations.glob("*/*/*.txt"), None) is not None,
        "childplay": next(annotations.glob("*.csv"), None) is not None,
        "goo": path.is_file() and path.suffix.lower() in PICKLES,
        "json": path.is_file() and path.suffix.lower() == ".json",
    }
    found = [name for name, sign in signs.items() if sign]
    if not found:
        raise InputError(
            f"data {str(data)!r} has no split {split!r} of gaze: {split}_annotations_release.txt (GazeFollow), "
            f"annotations/{split}/SHOW/CLIP/PERSON.txt (VAT), annotations/{split}/*.csv (ChildPlay), a .json file or a "
            "pickle (GOO-Real) is expected"
        )
    return found[0]
