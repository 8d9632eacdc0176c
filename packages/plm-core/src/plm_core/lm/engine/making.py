"""The work on one item: its scenes, what captioners say of them, one caption of each, and questions.

Each step gives a record, which a journal keeps. A step that has a record is not done again; one that failed is.

    scenes    the scenes of a video
    views     what the captioners say of a scene: of its key frames, and of the whole
    caption   one caption of a scene or of an image
    pairs     questions about it with answers
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from plm_core.errors import InputError
from plm_core.lm.engine.journal import Record
from plm_core.lm.engine.prompts import Prompts, UnusableReply, parse_pairs, usable
from plm_core.lm.engine.rows import part_name
from plm_core.lm.engine.scenes import Scene, SceneSettings, split
from plm_core.lm.engine.workers import Captioner, Text, Visual, Writer, evenly, name_of, texts_of
from plm_core.utils.images import Channels, open_image
from plm_core.utils.text import first_line
from plm_core.video.file import Video

KEY_SIDE = 1344
"""The largest side of a key frame that a captioner is shown, in pixels."""
CLIP_SIDE = 448
"""The largest side of the frames of a clip, in pixels, which is that of a chunk of the published models."""
REPLY = 2000
"""The characters of a reply that cannot be used that are kept."""


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Who does the work, and how.

    Attributes:
        captioner: Describes images and key frames; None for videos without key frames.
        video_captioner: Describes clips; None for key frames alone.
        merge: Makes one caption of several descriptions; None to put them one after the other.
        writer: Writes questions; None for none.
        prompts: What they are asked.
        scenes: How videos are split.
        frames: The number of frames of a clip that the video captioner is shown at most.
        questions: The number of questions about an item.
        batch_size: The number of images, or scenes of a video, that are worked on together.
    """

    captioner: Captioner | None = None
    video_captioner: Captioner | None = None
    merge: Writer | None = None
    writer: Writer | None = None
    prompts: Prompts = field(default_factory=Prompts)
    scenes: SceneSettings = field(default_factory=SceneSettings)
    frames: int = 32
    questions: int = 0
    batch_size: int = 8

    def facts(self) -> dict[str, Any]:
        """Return what the results depend on. Who asks questions, and how, counts only where there are some."""
        workers = {name: getattr(self, name) for name in ("captioner", "video_captioner", "merge")}
        facts: dict[str, Any] = {name: worker and name_of(worker) for name, worker in workers.items()}
        facts |= {f"prompt {name}": prompt for name, prompt in asdict(self.prompts).items() if name != "questions"}
        facts |= {"scenes": asdict(self.scenes), "frames": self.frames}
        if self.questions and self.writer:
            facts |= {"questions": self.questions, "writer": name_of(self.writer)}
            facts["prompt questions"] = self.prompts.questions
        return facts


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file to work on, with what was done of it.

    Attributes:
        path: The file.
        name: Its name in the data.
        stamp: Its size and time.
        notes: What is known about it, such as text that it shows.
        video: Whether it is a video.
        records: The records of what was done, by part and stage.
    """

    path: Path
    name: str
    stamp: str
    notes: str = ""
    video: bool
    records: Mapping[tuple[str, str], Record] = field(default_factory=dict)


def work(engine: Engine, sources: Sequence[Source]) -> Iterator[Record]:
    """Yield a record for each step that was not done before, as soon as it is finished.

    Args:
        engine: Who does the work.
        sources: Images, or one video.

    Raises:
        MissingDependency: PyAV is not installed.
        PlmError: A captioner or writer can give no text at all, see `plm_core.lm.engine.workers.texts_of`.
    """
    if sources and sources[0].video:
        for source in sources:
            yield from _work_on_video(engine, source)
        return
    parts = [_Part(source, "", None) for source in sources]
    shown = [part for part in parts if part.good("caption") is None]
    pictures: list[Visual] = []
    for part in list(shown):
        try:
            pictures.append(Channels(3)(open_image(part.source.path)))
        except InputError as e:
            shown.remove(part)
            parts.remove(part)
            yield part.record("bad", error=first_line(e))
    for part, text in zip(shown, _told(engine.captioner, pictures, engine.prompts.image), strict=True):
        yield part.finished("caption", text, lambda text: {"caption": usable(text)})
    yield from _ask(engine, parts)


def _work_on_video(engine: Engine, source: Source) -> Iterator[Record]:
    whole = _Part(source, "", None)
    try:
        with _reading():
            video = Video(source.path)
        known = whole.good("scenes")
        if known is None:
            with _reading():
                scenes = split(video, engine.scenes)
            yield whole.record("scenes", scenes=[asdict(scene) for scene in scenes])
        else:
            scenes = [_scene(fields) for fields in known["scenes"]]
        parts = [_Part(source, part_name(scene.first, scene.last), scene) for scene in scenes]
        for start in range(0, len(parts), engine.batch_size):
            group = parts[start : start + engine.batch_size]
            yield from _view(engine, video, [part for part in group if part.good("caption") is None])
            yield from _merge(engine, group)
            yield from _ask(engine, group)
    except _Unreadable as e:
        yield whole.record("bad", error=str(e))


class _Unreadable(Exception):
    """A file cannot be read, which concerns no other."""


@contextmanager
def _reading() -> Iterator[None]:
    """Tell the errors of a file from those of a captioner, which has the same class of them."""
    try:
        yield
    except InputError as e:
        raise _Unreadable(first_line(e)) from e


@dataclass(eq=False)
class _Part:
    """An image, or a scene of a video, and what was done of it."""

    source: Source
    name: str
    scene: Scene | None
    new: dict[str, Record] = field(default_factory=dict)

    def good(self, stage: str) -> Record | None:
        """Return the record of a stage; None if there is none, or if it failed."""
        record = self.new.get(stage) or self.source.records.get((self.name, stage))
        return None if record is None or "error" in record else record

    def record(self, stage: str, **values: Any) -> Record:
        """Return the new record of a stage."""
        key = {"item": self.source.name, "stamp": self.source.stamp, "part": self.name, "stage": stage}
        self.new[stage] = {**key, **values}
        return self.new[stage]

    def finished(self, stage: str, text: Text, read: Callable[[str], dict[str, Any]]) -> Record:
        """Return the record of a stage that makes something of a text; one with ``error`` if that fails."""
        if not isinstance(text, str):
            return self.record(stage, error=first_line(text))
        try:
            return self.record(stage, **read(text))
        except UnusableReply as e:
            return self.record(stage, error=first_line(e), reply=text[:REPLY])


def _told(captioner: Captioner | None, visuals: Sequence[Visual], prompt: str) -> list[Text]:
    return [] if captioner is None else texts_of(captioner, visuals, prompt)


def _view(engine: Engine, video: Video, parts: Sequence[_Part]) -> Iterator[Record]:
    """Yield what the captioners say of scenes."""
    open_parts = [part for part in parts if part.good("views") is None]
    with _reading():
        read = [_frames(engine, video, part.scene) for part in open_parts if part.scene is not None]
    keys = [picture for pictures, _ in read for picture in pictures.values()]
    of_keys = iter(_told(engine.captioner, keys, engine.prompts.frame))
    of_clips = iter(_told(engine.video_captioner, [clip for _, clip in read], engine.prompts.video))
    for part, (pictures, _) in zip(open_parts, read, strict=True):
        frames = [next(of_keys) for _ in pictures]
        clip = [next(of_clips)] if engine.video_captioner else []
        seconds = [round(video.seconds(number), 3) for number in pictures]
        yield part.record("views", **_views([*frames, *clip], seconds))


def _views(texts: Sequence[Text], seconds: Sequence[float]) -> dict[str, Any]:
    """Return the texts on key frames with their times, and on the clip; or why one of them cannot be used."""
    told = []
    for text in texts:
        if not isinstance(text, str):
            return {"error": first_line(text)}
        try:
            told.append(usable(text))
        except UnusableReply as e:
            return {"error": first_line(e), "reply": text[:REPLY]}
    return {"frames": list(zip(seconds, told, strict=False)), "clip": told[len(seconds) :]}


def _merge(engine: Engine, parts: Sequence[_Part]) -> Iterator[Record]:
    """Yield one caption of each scene: the one that there is, several merged, or several one after the other."""
    asked: list[tuple[_Part, str]] = []
    for part in parts:
        views = part.good("views")
        if views is None or part.good("caption") is not None:
            continue
        texts = list(dict.fromkeys([*views["clip"], *(text for _, text in views["frames"])]))
        if engine.merge is None or len(texts) == 1:
            yield part.record("caption", caption="\n".join(texts), merged=False)
        else:
            asked.append((part, engine.prompts.merging(_lines(part, views), part.source.notes)))
    if engine.merge is not None:
        texts = texts_of(engine.merge, [prompt for _, prompt in asked])
        for (part, _), text in zip(asked, texts, strict=True):
            yield part.finished("caption", text, lambda text: {"caption": usable(text), "merged": True})


def _lines(part: _Part, views: Record) -> str:
    """Return the descriptions to merge, with the times of the key frames in seconds from the start of the scene."""
    start = part.scene.start if part.scene else 0.0
    of_keys = [f"Frame at {max(seconds - start, 0):.1f} s: {text}" for seconds, text in views["frames"]]
    return "\n".join([*(f"Whole clip: {text}" for text in views["clip"]), *of_keys])


def _ask(engine: Engine, parts: Sequence[_Part]) -> Iterator[Record]:
    """Yield questions about images or scenes that have a caption."""
    if engine.writer is None or not engine.questions:
        return
    asked = []
    for part in parts:
        caption = part.good("caption")
        if caption is not None and part.good("pairs") is None:
            medium = "video" if part.source.video else "image"
            asked.append((part, engine.prompts.asking(medium, caption["caption"], part.source.notes, engine.questions)))
    for (part, _), text in zip(asked, texts_of(engine.writer, [prompt for _, prompt in asked]), strict=True):
        yield part.finished("pairs", text, lambda text: {"pairs": parse_pairs(text, engine.questions)})


def _frames(engine: Engine, video: Video, scene: Scene) -> tuple[dict[int, Image.Image], Tensor]:
    """Return the key frames of a scene by their numbers, and the frames of the clip, uint8 [T, H, W, 3]."""
    span = torch.arange(scene.first, scene.last + 1)
    of_clip = evenly(span, engine.frames).tolist() if engine.video_captioner else []
    keys = scene.keys if engine.captioner else ()
    numbers = sorted({*of_clip, *keys})
    frames = dict(zip(numbers, video.read(numbers, _within(KEY_SIDE)), strict=True))
    pictures = {key: Image.fromarray(frames[key].numpy()) for key in keys}
    small = _within(CLIP_SIDE)
    return pictures, torch.stack([small(frames[number]) for number in of_clip]) if of_clip else span[:0]


def _within(side: int) -> Callable[[Tensor], Tensor]:
    """Return a function that shrinks a frame, uint8 [H, W, 3], to at most ``side`` pixels on each side."""

    def shrink(frame: Tensor) -> Tensor:
        height, width = frame.shape[:2]
        factor = side / max(height, width)
        if factor >= 1:
            return frame
        size = (max(round(width * factor), 1), max(round(height * factor), 1))
        return torch.from_numpy(np.array(Image.fromarray(frame.numpy()).resize(size, Image.Resampling.BICUBIC)))

    return shrink


def _scene(fields: Mapping[str, Any]) -> Scene:
    return Scene(**{**fields, "keys": tuple(fields["keys"]), "cuts": tuple(fields["cuts"])})
