"""The names of the files that ``plm gaze`` writes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from plm_core.errors import InputError
from plm_core.prediction.files import InputFile, Kind

PHOTO_ENDINGS = (".gaze.jpg", ".gaze.json")
VIDEO_ENDINGS = (".gaze.mp4", ".gaze.csv")


@dataclass(frozen=True)
class Job:
    """A photo or a video, and the files to write for it.

    Attributes:
        path: The photo or video.
        is_video: Whether it is a video.
        picture: The picture or video with drawings.
        data: The JSON file or the table. It is complete if it exists, since it is written last.
    """

    path: Path
    is_video: bool
    picture: Path
    data: Path


def plan(files: Sequence[InputFile], out: Path) -> list[Job]:
    """Return the photos and videos among files, each once, and the files to write for each.

    The files to write have the name of the photo, after its own ending where two would be the same, and lie in the same
    folders below ``out``. Results of earlier runs in a folder are left out.

    Args:
        files: What was found at the paths that were given.
        out: The folder to write to.

    Raises:
        InputError: There is nothing to do, two files would be written to one place, or one over a photo or video.
    """
    chosen = {file.path.resolve(): file for file in reversed(files) if _is_input(file)}
    inputs = [file for file in files if chosen.get(file.path.resolve()) is file]
    if not inputs:
        raise InputError("there are no photos or videos: what is there was written by this command")
    jobs = [_job(file, name, out) for file, name in zip(inputs, _names(inputs), strict=True)]
    owners: dict[Path, Path] = {file.path.resolve(): file.path for file in inputs}
    for job in jobs:
        for place in (job.picture, job.data):
            other = owners.setdefault(place.resolve(), job.path)
            if place.resolve() in chosen:
                raise InputError(f"out {str(out)!r}: the result for {str(job.path)!r} would overwrite {str(other)!r}")
            if other != job.path:
                raise InputError(
                    f"out {str(out)!r} has one place for {str(other)!r} and {str(job.path)!r}: {str(place)!r}"
                )
    return jobs


def _is_input(file: InputFile) -> bool:
    """Return whether a file is to be looked at. One that was given itself is, whatever its name."""
    written = file.path.name.lower().endswith((PHOTO_ENDINGS[0], VIDEO_ENDINGS[0]))
    return file.folder is None or (file.kind != Kind.OTHER and not written)


def _job(file: InputFile, name: Path, out: Path) -> Job:
    is_video = file.kind == Kind.VIDEO
    picture, data = (out / name.with_name(name.name + e) for e in (VIDEO_ENDINGS if is_video else PHOTO_ENDINGS))
    return Job(file.path, is_video, picture, data)


def _names(files: Sequence[InputFile]) -> list[Path]:
    """Return the names of files below the folder without their endings, but with them where two would be the same."""
    bare = [file.name.with_suffix("") for file in files]
    count = Counter(str(name).casefold() for name in bare)
    return [name if count[str(name).casefold()] == 1 else file.name for name, file in zip(bare, files, strict=True)]
