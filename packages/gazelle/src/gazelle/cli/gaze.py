"""``plm gaze``: where each person in photos and videos is looking."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gazelle.cli.options import ModelName, Release
from plm_core.cli.options import Device, Json, Threads
from plm_core.cli.table import show
from plm_core.errors import InputError
from plm_core.utils.arguments import DEVICE

if TYPE_CHECKING:
    from gazelle.estimation import Estimator
    from gazelle.outputs import Job
    from gazelle.people.source import HeadSource
    from gazelle.video import VideoSettings

INTERRUPTED = 130
"""Exit code of a shell's command that Ctrl-C ended."""
LISTED = 5
"""Number of files that a message names."""


@dataclass
class Run:
    """What all photos and videos of a run have in common, and what it has found so far."""

    estimator: Estimator
    source: HeadSource
    settings: VideoSettings
    heat: str
    note: str
    about: dict[str, Any]
    results: list[dict[str, Any]] = field(default_factory=list)
    empty: list[Path] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def do(self, job: Job, advance: Callable[[float], None]) -> None:
        """Write the files of a photo or a video, and note the result, or the line of an error with it."""
        try:
            result = (self._video if job.is_video else self._photo)(job, advance)
        except InputError as e:
            name = str(job.path)
            self.errors.append(str(e) if name in str(e) else f"{name!r}: {e}")
            print(f"plm: error: {self.errors[-1]}", file=sys.stderr)
            return
        if not result["people"]:
            self.empty.append(job.path)
        self.results.append(result)

    def _photo(self, job: Job, advance: Callable[[float], None]) -> dict[str, Any]:
        from gazelle.photos import data_of, gaze_photo, write_photo

        threshold = self.settings.threshold
        photo = gaze_photo(self.estimator, job.path, self.source, threshold)
        write_photo(photo, job.picture, job.data, about=self.about, threshold=threshold, heat=self.heat, note=self.note)
        advance(1)
        return {**data_of(photo), **self.about, "picture": str(job.picture), "data": str(job.data)}

    def _video(self, job: Job, advance: Callable[[float], None]) -> dict[str, Any]:
        from gazelle.video import write_gaze_video

        summary = write_gaze_video(
            self.estimator, job.path, job.picture, job.data, self.source, self.settings,
            heat=self.heat, note=self.note, advance=advance,
        )  # fmt: skip
        return {
            "file": str(job.path),
            "frames": summary.frames,
            "rate": round(summary.rate, 4),
            "people": summary.people,
            **self.about,
            "picture": str(job.picture),
            "data": str(job.data),
        }


def gaze(
    sources: Annotated[list[Path], typer.Argument(help="Photos, videos, and folders of them with all folders below.")],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            help="Folder to write to: NAME.gaze.jpg and NAME.gaze.json for a photo, NAME.gaze.mp4 and NAME.gaze.csv "
            "for a video.",
        ),
    ],
    model: ModelName = None,
    weights: Release = None,
    box: Annotated[
        list[str] | None,
        typer.Option(
            "--box",
            help="Head box x0,y0,x1,y1 in fractions, or in pixels if a number is above 1. May be repeated, one for "
            "each person.",
        ),
    ] = None,
    boxes: Annotated[
        Path | None,
        typer.Option(
            "--boxes",
            help='JSON file of head boxes: {"photo.jpg": [\\[x0, y0, x1, y1], ...]}, or one list for all. Those of a '
            "video are for every frame.",
        ),
    ] = None,
    no_box: Annotated[
        bool, typer.Option("--no-box", help="Look for nobody, and ask where anybody in the picture would look.")
    ] = False,
    detector: Annotated[
        str,
        typer.Option(
            "--detector",
            help="What finds people: mtcnn (faces), cascade (scikit-image's, for faces from the front), or "
            "module:function.",
        ),
    ] = "mtcnn",
    corner: Annotated[
        bool,
        typer.Option(
            "--corner",
            help="Give the corner of the highest cell as the point, as benchmarks do, not the peak's centre.",
        ),
    ] = False,
    threshold: Annotated[
        float,
        typer.Option("--threshold", min=0, max=1, help="Probability from which a target is inside the picture."),
    ] = 0.5,
    heat: Annotated[
        str, typer.Option("--heat", help="Heatmaps in the pictures: own (each in its colour), all (as one), or none.")
    ] = "own",
    every: Annotated[
        int,
        typer.Option("--every", min=1, help="For a video: look for people in every so many frames, and follow them."),
    ] = 5,
    smooth: Annotated[
        float, typer.Option("--smooth", help="For a video: share of the past in a point, from 0 to less than 1.")
    ] = 0.5,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="For a video: frames per batch.")] = 8,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Skip photos and videos whose results are in --out, whatever options they had."),
    ] = False,
    device: Device = DEVICE,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Show where each person in photos and videos is looking."""
    given = _given_boxes(box, boxes, no_box)
    from gazelle.outputs import plan
    from gazelle.pictures import HEATS
    from plm_core.prediction.files import find_files
    from plm_core.utils.files import make_folder
    from plm_core.utils.ranges import check_choice

    check_choice("heat", heat, HEATS)
    jobs = plan(find_files(sources), out)  # before the model, so that a bad path fails at once
    make_folder(out)
    left = [job for job in jobs if not (resume and job.data.exists() and job.picture.exists())]
    if len(left) < len(jobs):
        typer.echo(f"{len(jobs) - len(left)} of {len(jobs)} files are done already", err=True)

    from gazelle.estimation import Estimator
    from gazelle.loading import load
    from gazelle.people.source import HeadSource
    from gazelle.video import VideoSettings
    from gazelle.video.settings import EXTRA
    from plm_core.utils.devices import cpu_threads
    from plm_core.video import require_av

    if any(job.is_video for job in left):
        require_av(EXTRA)
    settings = VideoSettings(every=every, smooth=smooth, batch_size=batch_size, threshold=threshold)
    source = HeadSource(None if no_box else detector, given)
    if not left:
        return
    loaded = load(model, weights, device)
    if loaded.note:
        typer.echo(f"note: {loaded.name}: {loaded.note}", err=True)
    points = "corner" if corner else "centre"
    about = {
        "model": loaded.name, "note": loaded.note, "boxes": source.name, "points": points, "threshold": threshold
    }  # fmt: skip
    run = Run(Estimator(loaded.model, subpixel=not corner), source, settings, heat, loaded.note, about)
    with cpu_threads(threads):
        _do_all(run, left)
    _report(run, as_json)


def _given_boxes(box: list[str] | None, boxes: Path | None, no_box: bool) -> Any:
    """Return the boxes that were given for pictures by name, or None.

    Raises:
        InputError: Two options contradict each other, or a box is none.
    """
    named = [name for name, value in (("--box", box), ("--boxes", boxes), ("--no-box", no_box)) if value]
    if len(named) > 1:
        raise InputError(f"{' and '.join(named)} cannot be given together: choose one")
    if not box and boxes is None:
        return None
    from gazelle.people import parse_box, read_boxes
    from gazelle.people.reading import EVERY

    return {EVERY: [parse_box(text) for text in box]} if box else read_boxes(str(boxes))


def _do_all(run: Run, jobs: list[Job]) -> None:
    """Go through all files with a progress bar, which counts photos and frames."""
    from plm_core.utils.progress import progress_bar

    sizes = [_length(job) for job in jobs]
    try:
        with progress_bar("files", sum(sizes)) as advance:
            for job in jobs:
                run.do(job, advance)
    except KeyboardInterrupt:
        done = len(run.results)
        typer.echo(f"interrupted after {done} of {len(jobs)} files; --resume goes on from here", err=True)
        raise typer.Exit(INTERRUPTED) from None


def _length(job: Job) -> int:
    """Return the number of steps of a file: 1, or the number of frames of a video that can be read."""
    from plm_core.utils.progress import interactive

    if not (job.is_video and interactive()):
        return 1
    from plm_core.video import Video

    try:
        return len(Video(job.path))
    except InputError:
        return 1


def _report(run: Run, as_json: bool) -> None:
    """Print what was found. The exit code is 2 if a file could not be read, as for plm predict."""
    show(run.results if as_json else [_row(result) for result in run.results], as_json)
    total = len(run.results) + len(run.errors)
    if run.empty:
        names = ", ".join(map(str, run.empty[:LISTED])) + (", ..." if len(run.empty) > LISTED else "")
        why = ""
        if run.source.name in ("mtcnn", "cascade"):
            why = ". It finds faces and nobody from behind; give such heads with --box or --boxes"
        typer.echo(f"note: nobody was found in {len(run.empty)} of {total} files: {names}{why}", err=True)
    if run.errors:
        if total > 1:
            print(f"plm: error: {len(run.errors)} of {total} files could not be read", file=sys.stderr)
        raise typer.Exit(2)


def _row(result: dict[str, Any]) -> dict[str, Any]:
    """Return a line of the table for a photo or a video."""
    people = result["people"]
    return {
        "file": result["file"],
        "people": people if isinstance(people, int) else len(people),
        "frames": result.get("frames", ""),
        "picture": result["picture"],
        "data": result["data"],
    }
