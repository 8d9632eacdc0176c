"""Results as rows of data, which `plm_core.lm.data` reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from plm_core.lm.chat import IMAGE, VIDEO
from plm_core.lm.engine.journal import Record

Row = Mapping[str, Any]


def rows_of(item: str, records: Mapping[tuple[str, str], Record], job: Mapping[str, Any]) -> Iterator[Row]:
    """Yield the rows of an item: for an image, or each scene of a video in order, its caption and its questions.

    Each row says in ``metadata`` who wrote its texts.

    Args:
        item: The name of the file.
        records: The results by part and stage, see `plm_core.lm.engine.making`.
        job: What the results depend on.
    """
    scenes = records.get(("", "scenes"))
    if scenes is None:
        yield from _rows({"image": item}, IMAGE, item, "", records, {"captioner": job["captioner"]}, job)
        return
    writers = {name: job[name] for name in ("captioner", "video_captioner") if job[name] is not None}
    for scene in scenes["scenes"]:
        part = part_name(scene["first"], scene["last"])
        about = {"video": item, "start_time": scene["start"], "end_time": scene["end"]}
        yield from _rows(about, VIDEO, f"{item}#{part}", part, records, writers, job)


def part_name(first: int, last: int) -> str:
    """Return the name of a range of frames within its video."""
    return f"{first}-{last}"


def _rows(
    about: Row,
    mark: str,
    name: str,
    part: str,
    records: Mapping[tuple[str, str], Record],
    writers: Mapping[str, Any],
    job: Mapping[str, Any],
) -> Iterator[Row]:
    caption = records.get((part, "caption"), {})
    if "caption" not in caption:
        return
    by: dict[str, Any] = {"synthetic": True, **writers}
    if (merged := caption.get("merged")) is not None:
        by["merged"] = merged
    if merged:
        by["merge"] = job["merge"]
    views = records.get((part, "views"), {})
    told = {key: views[key] for key in ("frames", "clip") if views.get(key)}
    yield {**about, "text": caption["caption"], "id": name, "metadata": {**by, **told}}
    pairs = records.get((part, "pairs"), {}).get("pairs", [])
    for number, pair in enumerate(pairs):
        turns = [("human", f"{mark}\n{pair['question']}"), ("assistant", pair["answer"])]
        yield {
            **about,
            "conversations": [{"from": role, "value": text} for role, text in turns],
            "id": f"{name}/{number}",
            "metadata": {**by, "writer": job["writer"], "caption": name},
        }
