"""Scenes of `plm_core.shapes` in the formats of the public datasets, to try trainings and evaluations on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from plm_core.shapes import GazeClip, GazeScene
from plm_core.shapes.scenes import Person
from plm_core.utils.files import write_text


def write_gazefollow(scenes: Iterable[GazeScene], folder: str | Path, split: str) -> None:
    """Write scenes as a split of GazeFollow, with one annotator. Its test split has only people who look inside.

    Args:
        scenes: Scenes such as `plm_core.shapes.Gazes`.
        folder: The folder of both splits.
        split: ``train`` or ``test``.
    """
    rows = []
    for number, scene in enumerate(scenes):
        path, size = f"{split}/{number:05d}.png", scene.image.shape[0]
        file = Path(folder) / path
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene.image).save(file)
        for person in scene.people:
            if split == "test" and not person.inside:
                continue
            eye, gaze = ([value / size for value in point or (-size, -size)] for point in (person.centre, person.point))
            inout = [] if split == "test" else [int(person.inside)]
            values = (path, number, *person.head, *eye, *gaze, *person.head, *inout, "shapes", "")
            rows.append(",".join(map(str, values)))
    write_text(Path(folder) / f"{split}_annotations_release.txt", "".join(f"{row}\n" for row in rows))


def write_vat(clips: Iterable[GazeClip], folder: str | Path, split: str) -> None:
    """Write clips as a split of VideoAttentionTarget.

    Args:
        clips: Clips such as `plm_core.shapes.GazeClips`.
        folder: The folder of both splits.
        split: ``train`` or ``test``.
    """
    for number, clip in enumerate(clips):
        place = f"{split}/{number:05d}"
        images = Path(folder) / "images" / place
        images.mkdir(parents=True, exist_ok=True)
        tracks: dict[str, list[str]] = defaultdict(list)
        for index, (frame, people) in enumerate(zip(clip.frames, clip.people, strict=True)):
            name = f"{index:08d}.png"
            Image.fromarray(frame).save(images / name)
            for person in people:
                tracks[person.clothes].append(_row(name, person))
        for count, rows in enumerate(tracks.values()):
            file = Path(folder) / "annotations" / split / place / f"s{count:02d}.txt"
            write_text(file, "".join(f"{row}\n" for row in rows))


def _row(name: str, person: Person) -> str:
    return ",".join(map(str, (name, *person.head, *(person.point or (-1, -1)))))
