"""The files of a video: its table, and a video with drawings."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gazelle.estimation import Estimator
from gazelle.people.source import HeadSource
from gazelle.pictures import NOBODY, paint
from gazelle.video.looking import gaze_frames
from gazelle.video.rows import COLUMNS, rows_of
from gazelle.video.settings import EXTRA, VideoSettings
from plm_core.utils.files import atomic_paths
from plm_core.video import Video, require_av, video_writer


@dataclass(frozen=True)
class VideoSummary:
    """What was found in a video.

    Attributes:
        frames: Number of frames.
        rate: Frames per second.
        people: Number of people, in all frames together.
    """

    frames: int
    rate: float
    people: int


def write_gaze_video(
    estimator: Estimator,
    path: str | Path,
    out: str | Path,
    table: str | Path,
    source: HeadSource | None = None,
    settings: VideoSettings | None = None,
    *,
    heat: str = "own",
    note: str = "",
    advance: Callable[[float], None] = lambda amount: None,
) -> VideoSummary:
    """Write who looks where in a video, as an MP4 video with drawings and as a table, both completely or not at all.

    The video has the frames and times of the original, and no sound. Small frames are enlarged, see
    `gazelle.pictures.paint`.

    Args:
        estimator: The model.
        path: The video.
        out: The video to write, such as clip.gaze.mp4.
        table: The table to write, such as clip.gaze.csv. Its columns are in `gazelle.video.rows`.
        source: Where head boxes are from. None finds people with the default detector.
        settings: How the video is gone through. None for the defaults.
        heat: The heatmaps, see `gazelle.pictures.paint`.
        note: A text for the lower edge of each frame. Where nobody is found, that is said there too.
        advance: Called with numbers of frames, see `gaze_frames`.

    Raises:
        MissingDependency: PyAV is not installed.
        InputError: The video cannot be read, or see `gazelle.people.source.HeadSource`.
        FileError: A file cannot be written.
    """
    require_av(EXTRA)
    settings = settings or VideoSettings()
    rate = Video(path).rate
    frames, people = 0, set[int]()
    with atomic_paths(out, table) as (film, sheet), open(sheet, "w", newline="", encoding="utf-8") as text:
        rows = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        rows.writeheader()
        with video_writer(film, rate) as add:
            for frame in gaze_frames(estimator, path, source, settings, advance):
                looks = [person.look for person in frame.people]
                ids = [person.id for person in frame.people]
                words = note if looks else f"{NOBODY} {note}".strip()
                picture = paint(frame.pixels, looks, ids=ids, threshold=settings.threshold, heat=heat, note=words)
                add(np.asarray(picture), frame.time)
                rows.writerows(rows_of(frame))
                frames += 1
                people.update(ids)
    return VideoSummary(frames, rate, len(people))
