"""Questions of the shapes world as files: data to train on, and PLM-VideoBench in miniature.

The folder holds both at once:

    images/00000.png, videos/00000.mp4
    image.jsonl, multi_image.jsonl, image_region.jsonl, caption.jsonl, text.jsonl, video.jsonl, video_region.jsonl
    datasets.yaml                   the rows by name, a registry for training
    fgqa/plm_fgqa_test.jsonl ...    the rows of the five tasks
    metadata/metadata_test.jsonl    the boxes of the objects that the tasks ask about

A clip of the world has few frames, and the benchmark takes 32 of each video. So each drawn frame is shown several times
in a row in the video, for 32 or more in all. A model that is shown as many frames as the clip has sees each of them
once, and the spans in training rows count these. The rows of the tasks count the frames of the video.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from plm_core.shapes.questions.asking import Question, region_text
from plm_core.shapes.questions.clips import story, tell
from plm_core.shapes.questions.datasets import AskedClip, AskedScene, ClipQuestions, ImageQuestions
from plm_core.shapes.questions.marking import mark_track
from plm_core.shapes.questions.pictures import ask_pair
from plm_core.shapes.questions.texts import text_questions
from plm_core.utils.files import atomic_path, make_folder, write_text
from plm_core.utils.progress import track
from plm_core.video.writing import video_writer

Row = Mapping[str, Any]
Rows = dict[str, list[Row]]

SHOWN = 32
"""The frames that a video has at least."""
RATE = 6.0
"""Frames per second of the videos, as in the data of the benchmark."""
SCALE = 4
"""The factor by which the frames of a video are enlarged. A drawn box has lines of 4 pixels there."""
MARKER = "<|bbox0|>"


def write_questions(
    folder: str | Path,
    split: str = "train",
    *,
    pictures: int = 200,
    clips: int = 100,
    size: int = 48,
    frames: int = 8,
    seed: int = 0,
    background: str = "clutter",
) -> dict[str, int]:
    """Write questions about pictures and clips into a folder.

    The files are the same for the same arguments, but for what another version of the video encoder makes of a clip.

    Args:
        folder: The folder, which is created if it is absent. Files of these names are replaced.
        split: "train" or "heldout".
        pictures: Number of pictures, at least 1.
        clips: Number of clips, at least 1.
        size: Height and width of a picture in pixels, at least 32. Videos are `SCALE` times as large.
        frames: Frames of a clip, from 4 to 32.
        seed: Random seed, at least 0.
        background: "plain", "gradient" or "clutter".

    Returns:
        The number of rows in each file, by the name of its kind or task.

    Raises:
        ValueError: An argument is out of range. The message names it.
        FileError: A file cannot be written.
        MissingDependency: PyAV is not installed.
    """
    scenes = ImageQuestions(split, size=size, count=pictures, seed=seed, background=background)
    films = ClipQuestions(split, size=size, count=clips, seed=seed, background=background, frames=frames)
    root = make_folder(folder)
    rows: Rows = defaultdict(list)
    rows["text"] = [_talk({}, question) for question in text_questions()]
    _write_pictures(root, scenes, rows)
    tasks = _write_clips(root, films, rows)
    for name, listed in rows.items():
        _write_rows(root / f"{name}.jsonl", listed)
    write_text(root / "datasets.yaml", "".join(f"{name}:\n  annotation: {name}.jsonl\n" for name in sorted(rows)))
    boxes = tasks.pop("metadata")
    for name, listed in tasks.items():
        _write_rows(make_folder(root / name) / f"plm_{name}_test.jsonl", listed)
    _write_rows(make_folder(root / "metadata") / "metadata_test.jsonl", boxes)
    return {name: len(listed) for name, listed in (*rows.items(), *tasks.items())}


def ask_row(task: str, row: Row, frames: int) -> str:
    """Return what a model of this world is asked about a row of a task, in the words that it is trained on.

    Args:
        task: One of the five tasks.
        row: The row.
        frames: Number of frames that the model sees. Spans count these.
    """
    subject = "the shape in the red box"
    if task == "fgqa":
        options = tuple(row["options"][f"option_{number}"] for number in range(2))
        return Question(kind=task, question=row["question"], answer=row["answer"], options=options).prompt
    if task == "sgqa":
        return str(row["question"])
    if task == "rdcap":
        return f"what does {subject} do, and in which frames?"
    if task == "rtloc":
        return f"in which frames is this true: {subject} {row['caption'].removeprefix('it ')}?"
    first, last = (row[key] * frames // row["total_frames"] for key in ("start_frame", "end_frame"))
    return f"what does {subject} do in the frames [{first},{last}]?"


def _write_pictures(root: Path, scenes: ImageQuestions, rows: Rows) -> None:
    """Write the pictures, and add the rows about them."""
    make_folder(root / "images")
    before: AskedScene | None = None
    for number, scene in enumerate(track(scenes, "Pictures", len(scenes))):
        name = f"images/{number:05d}.png"
        with atomic_path(root / name) as part:
            Image.fromarray(scene.image).save(part, format="png")
        for question in scene.questions:
            kind = "image" if question.box is None else "image_region"
            rows[kind].append(_talk(_about_image(name, question, scenes.size), question))
            if question.kind == "caption":
                rows["caption"].append({"image": name, "text": question.answer})
        if before is not None and (pair := ask_pair(_pair_stream(scenes.seed, number), before, scene)) is not None:
            names = [f"images/{index:05d}.png" for index in (number - 1, number)]
            rows["multi_image"].append(_talk({"image": names}, pair))
        before = scene


def _pair_stream(seed: int, number: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(number,))))


def _about_image(name: str, question: Question, size: int) -> dict[str, Any]:
    if question.box is None:
        return {"image": name}
    x0, y0, x1, y1 = map(int, question.box)
    return {"image": name, "bbox": [[x0, y0, x1 - x0, y1 - y0]], "width": size, "height": size}


def _write_clips(root: Path, clips: ClipQuestions, rows: Rows) -> Rows:
    """Write the videos, add the training rows about them, and return the rows of the tasks and of the metadata."""
    make_folder(root / "videos")
    hold = math.ceil(SHOWN / clips.frames)
    tasks: Rows = {name: [] for name in (*clips.kinds, "metadata")}
    for number, clip in enumerate(track(clips, "Clips", len(clips))):
        name = f"{number:05d}.mp4"
        with atomic_path(root / "videos" / name) as part, video_writer(part, RATE) as add:
            for index, frame in enumerate(clip.frames.repeat(hold, 0)):
                add(frame.repeat(SCALE, 0).repeat(SCALE, 1), index / RATE)
        rows["caption"].append({"video": f"videos/{name}", "text": clip.caption})
        for question in clip.questions:
            about: dict[str, Any] = {"video": f"videos/{name}"}
            if question.track is not None:
                about["bbox_map"] = _box_map(question.track, hold)
            rows["video" if question.track is None else "video_region"].append(_talk(about, question))
        _add_tasks(tasks, clip, name, hold)
    return tasks


def _add_tasks(tasks: Rows, clip: AskedClip, video: str, hold: int) -> None:
    """Add the rows of the tasks. In those on a region, a box marks the object."""
    marked = set()
    for number, question in enumerate(clip.questions):
        row: dict[str, Any] = {"uid": f"{video}-{number}", "video": video}
        if question.span is None:
            tasks[question.kind].append(row | _asked(question, video))
        elif question.object is not None:
            marked.add(question.object)
            row |= {"masklet_id": question.object, "total_frames": len(clip.frames) * hold}
            windows = _windows(clip, question.object, hold)
            (window,) = [w for w in windows if w["start_frame"] == question.span[0] * hold]
            tasks[question.kind].append(row | ({"dense_captions": windows} if question.kind == "rdcap" else window))
    for index in sorted(marked):
        boxes = _box_map(mark_track(clip.objects[index].boxes, clip.frames.shape[1]), hold)
        tasks["metadata"].append({"video": video, "masklet_id": index, "bbox": boxes})


def _asked(question: Question, video: str) -> dict[str, Any]:
    asked: dict[str, Any] = {"question": question.question, "answer": question.answer}
    if question.kind == "fgqa":
        asked["qa_uid"] = f"{video} {question.group}"
        asked["options"] = {f"option_{number}": option for number, option in enumerate(question.options)}
        asked["answer_index"] = question.options.index(question.answer)
    return asked


def _windows(clip: AskedClip, index: int, hold: int) -> list[dict[str, Any]]:
    """Return what an object does, with the first and last frames in the video."""
    return [
        {"start_frame": event.start * hold, "end_frame": event.end * hold - 1, "caption": tell([event.motion])}
        for event in story(clip, index)
    ]


def _box_map(boxes: Sequence[Sequence[float] | None], hold: int) -> dict[str, list[int] | None]:
    """Return the boxes by the number of the frame in the video, in its pixels."""
    return {
        str(index): None if box is None else [int(edge * SCALE) for edge in box]
        for index, box in enumerate(box for box in boxes for _ in range(hold))
    }


def _talk(about: Row, question: Question) -> Row:
    """Return a row about a medium: its files and boxes, and a conversation of one question."""
    marks = {"image": "<image>\n", "video": "<video>\n"}
    mark = "".join(text for key, text in marks.items() if key in about)
    if isinstance(about.get("image"), list):
        mark *= len(about["image"])
    turns = [("human", mark + question.prompt), ("assistant", question.reply)]
    if question.box is not None:
        region = region_text(question.box, about["width"])
        turns = [(role, text.replace(region, MARKER)) for role, text in turns]
    return {**about, "conversations": [{"from": role, "value": text} for role, text in turns]}


def _write_rows(path: Path, rows: Iterable[Row]) -> None:
    write_text(path, "".join(f"{json.dumps(row)}\n" for row in rows))
