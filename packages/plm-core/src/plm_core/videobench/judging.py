"""The replies of a judge to the answers of a model, in files that grow, so that no question is asked twice.

``OUT/replies/JUDGE/TASK.jsonl`` has a line for each row: what was compared (as a digest), the judge, and one reply for
each question to it. A question without a reply (a timeout) has null, and ``failed`` says why. Such questions, and those
whose reply is nonsense, are asked again by the next call. Each judge has its own files, so none replaces the replies of
another, which may have been expensive.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from plm_core.utils.files import make_folder
from plm_core.utils.progress import progress_bar
from plm_core.utils.text import first_line
from plm_core.videobench.data import Row
from plm_core.videobench.judge import Case, Judge, JudgeError
from plm_core.videobench.parsing import answer_verdict, caption_score, dense_pieces
from plm_core.videobench.records import Records
from plm_core.videobench.tasks import Task

PATIENCE = 5
"""Rows in a row without any reply, after which a judge is not asked on: it is not there."""
Replies = list[str | None]


@dataclass
class Judged:
    """The replies for one task.

    Attributes:
        replies: By row, one reply for each of its questions (see `cases`), None for one without.
        failed: By row, why a question has no reply, or that a reply is nonsense.
    """

    replies: dict[str, Replies] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def cases(task: Task, row: Row, prediction: str) -> list[Case]:
    """Return what a judge is asked about one answer.

    Dense captions are compared in all pairs: each reference caption with every predicted one.
    """
    if task.name == "sgqa":
        return [Case("answer", row["answer"], prediction, row["question"])]
    if task.name == "rcap":
        return [Case("caption", row["caption"], prediction)]
    captions = [caption for _, caption in dense_pieces(prediction)]
    return [Case("caption", piece["caption"], caption) for piece in row["dense_captions"] for caption in captions]


def judge_all(task: Task, answers: Sequence[tuple[Row, str]], judge: Judge, out: Path) -> Judged:
    """Ask a judge about answers, except for what its file of replies holds.

    Args:
        task: A task with a judge.
        answers: The rows and their answers.
        judge: The judge.
        out: The folder of the results, where the file of replies is created or continued.

    Raises:
        InputError: The file has a line that is no row, or the judge refuses to answer at all.
        FileError: The file cannot be written.
    """
    folder = make_folder(out / "replies" / re.sub(r"\W+", "-", judge.name)[:80].strip("-"))
    records, judged = Records(folder / f"{task.name}.jsonl"), Judged()
    work = []
    for row, prediction in answers:
        asked = cases(task, row, prediction)
        key = _key(judge, asked)
        before = records.rows.get(row["uid"], {})
        known: Replies = before["replies"] if before.get("key") == key else [None] * len(asked)
        judged.replies[row["uid"]] = known
        if any(not understood(task, reply) for reply in known):
            work.append((row["uid"], key, asked, known))
    pool = ThreadPoolExecutor(judge.parallel)
    silent = 0
    try:
        with progress_bar(f"judging {task.title}", len(work)) as advance:
            for uid, key, replies, failure in _ask(pool, task, judge, iter(work)):
                records.add({"uid": uid, "judge": judge.name, "key": key, "replies": replies, "failed": failure})
                judged.replies[uid] = replies
                advance(1)
                silent = 0 if any(reply is not None for reply in replies) else silent + 1
                if silent == PATIENCE:
                    break
    finally:
        pool.shutdown(cancel_futures=True)
    for uid, replies in judged.replies.items():
        if any(not understood(task, reply) for reply in replies):
            judged.failed[uid] = records.rows.get(uid, {}).get("failed") or "not asked, since the judge does not answer"
    return judged


def understood(task: Task, reply: str | None) -> bool:
    """Return whether a reply says what the metric of a task needs."""
    if reply is None:
        return False
    return (answer_verdict(reply) if task.judged == "answer" else caption_score(reply)) is not None


Work = tuple[str, str, list[Case], Replies]
Reply = tuple[str | None, str | None]
"""A reply, and why there is none."""


def _ask(
    pool: ThreadPoolExecutor, task: Task, judge: Judge, work: Iterator[Work]
) -> Iterator[tuple[str, str, Replies, str | None]]:
    """Yield the row, its digest, its replies and why one of them is missing or nonsense."""
    running: deque[tuple[str, str, Replies, dict[int, Future[Reply]]]] = deque()
    while True:
        for uid, key, asked, known in islice(work, max(2 * judge.parallel - len(running), 0)):
            open_cases = [place for place, reply in enumerate(known) if not understood(task, reply)]
            running.append((uid, key, known, {place: pool.submit(_reply, judge, asked[place]) for place in open_cases}))
        if not running:
            return
        uid, key, known, futures = running.popleft()
        replies, failure = list(known), None
        for place, future in futures.items():
            replies[place], why = future.result()
            if why is None and not understood(task, replies[place]):
                why = "the judge's reply cannot be parsed"
            failure = failure or why
        yield uid, key, replies, failure


def _reply(judge: Judge, case: Case) -> Reply:
    try:
        return judge.reply(case), None
    except JudgeError as e:
        return None, first_line(e)


def _key(judge: Judge, asked: Sequence[Case]) -> str:
    """Return the digest of all that replies depend on, so that those to other answers are not taken for them."""
    facts: list[Any] = [judge.name, *map(asdict, asked)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
