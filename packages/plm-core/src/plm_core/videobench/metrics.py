"""The five metrics of PLM-VideoBench, and the total of the published tables.

    metrics.fgqa(["(B)", "A. left"], rows).score                     # answers and the rows of the test file
    metrics.rtloc(["[10, 20]"], rows).score
    metrics.sgqa(['{"pred": "yes", "score": 5}']).score              # replies of a judge
    metrics.rdcap(answers, rows, scores).score                       # scores[i][g, p] from 0 to 1 by a judge

Shapes: G reference captions, P predicted captions, N samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from plm_core.errors import InputError
from plm_core.utils.text import shown
from plm_core.videobench.parsing import (
    FRAMES,
    NOWHERE,
    Span,
    answer_verdict,
    caption_score,
    dense_pieces,
    first_window,
    option_matches,
    rescale,
    target_option,
)

Row = Mapping[str, Any]
Floats = NDArray[np.float64]

THRESHOLDS = (0.3, 0.5, 0.7, 0.9)
"""The overlaps that a window must exceed, over which recall is averaged."""
EPSILON = 1e-8
"""What the union of two windows is larger by, so that two empty windows overlap by 0."""
REGIONS = ("rdcap", "rcap", "rtloc")
"""The tasks on a marked region, which count as one task in the total."""


@dataclass(frozen=True, eq=False)
class Metric:
    """The score of a task.

    Attributes:
        score: The mean of ``values``, from 0 to 1.
        values: One value for each sample, or for each question of FGQA, float64 [N].
        samples: What was read in each answer or reply, and what it counted.
    """

    score: float
    values: Floats = field(repr=False)
    samples: list[dict[str, Any]] = field(repr=False)

    @property
    def understood(self) -> float:
        """The share of answers, or of a judge's replies, that could be parsed."""
        return float(np.mean([sample.get("parsed", True) for sample in self.samples]))


def fgqa(predictions: Sequence[str], rows: Sequence[Row]) -> Metric:
    """Compute the multi-binary accuracy: the share of questions all of whose two-option rows are right.

    Args:
        predictions: The answers.
        rows: Their rows, with ``answer`` and ``options``. Rows with the same ``qa_uid`` are one question, and a row
            without it is a question of its own.

    Raises:
        InputError: There is not one answer for each row, or there are none.
    """
    samples: list[dict[str, Any]] = []
    groups: dict[Any, bool] = {}
    for number, (prediction, row) in enumerate(_pairs(predictions, rows)):
        target = target_option(row)
        right = option_matches(prediction, target)
        samples.append({"target": target, "accuracy": float(right)})
        question = row.get("qa_uid") or number
        groups[question] = groups.get(question, True) and right
    return _metric(list(groups.values()), samples)


def sgqa(replies: Sequence[str]) -> Metric:
    """Compute the share of answers that the judge finds right.

    Args:
        replies: The judge's replies; see `plm_core.videobench.parsing.answer_verdict`. A reply that is nonsense counts
            as right if it contains "yes" or "Yes".

    Raises:
        InputError: There are no replies.
    """
    samples = []
    for reply in replies:
        verdict = answer_verdict(reply)
        right = "yes" in reply or "Yes" in reply if verdict is None else verdict
        samples.append({"parsed": verdict is not None, "accuracy": float(right)})
    return _metric([sample["accuracy"] for sample in samples], samples)


def rcap(replies: Sequence[str]) -> Metric:
    """Compute the mean score that the judge gives to captions.

    Args:
        replies: The judge's replies; see `plm_core.videobench.parsing.caption_score`. Nonsense counts 0.

    Raises:
        InputError: There are no replies.
    """
    scores = [caption_score(reply) for reply in replies]
    samples = [{"parsed": score is not None, "score": score or 0.0} for score in scores]
    return _metric([sample["score"] for sample in samples], samples)


def rtloc(predictions: Sequence[str], rows: Sequence[Row], frames: int = FRAMES) -> Metric:
    """Compute the mean recall of windows, averaged over the overlaps `THRESHOLDS`, rounded to 4 digits.

    Args:
        predictions: The answers, each with a window ``[start, end]``. One without counts as a window elsewhere.
        rows: Their rows, with ``start_frame``, ``end_frame`` and ``total_frames``.
        frames: The number of frames that the model saw.

    Raises:
        InputError: There is not one answer for each row, or there are none.
    """
    samples: list[dict[str, Any]] = []
    recalls: list[float] = []
    for prediction, row in _pairs(predictions, rows):
        window = first_window(prediction)
        target = reference_span(row, row["total_frames"], frames)
        overlap = float(overlaps([window or NOWHERE], [target])[0, 0])
        recall = float(np.mean([overlap > threshold for threshold in THRESHOLDS]))
        recalls.append(recall)
        samples.append(
            {
                "parsed": window is not None,
                "window": window and list(window),
                "gt": list(target),
                "iou": overlap,
                "mean_recall": recall,
            }
        )
    metric = _metric(recalls, samples)
    return Metric(round(metric.score, 4), metric.values, samples)


def rdcap(predictions: Sequence[str], rows: Sequence[Row], scores: Sequence[ArrayLike], frames: int = FRAMES) -> Metric:
    """Compute SODA_c with a judge: the F-measure of the best assignment of captions that keeps their order.

    Args:
        predictions: The answers, each with pieces ``[start, end] caption``. One without counts 0.
        rows: Their rows, with ``dense_captions`` and ``total_frames``.
        scores: For each answer what the judge gives to each pair of a reference and a predicted caption, from 0 to 1,
            [G, P]. It is ignored for an answer without pieces.
        frames: The number of frames that the model saw.

    Raises:
        InputError: There is not one answer and one array for each row, an array has another shape, or there are none.
    """
    if len(scores) != len(rows):
        raise InputError(f"scores has {len(scores)} arrays for {len(rows)} rows; one for each is expected")
    samples = [
        _dense(prediction, row, given, frames)
        for (prediction, row), given in zip(_pairs(predictions, rows), scores, strict=True)
    ]
    return _metric([sample["SODA_c"] for sample in samples], samples)


def _dense(prediction: str, row: Row, given: ArrayLike, frames: int) -> dict[str, Any]:
    pieces = dense_pieces(prediction)
    targets = [reference_span(piece, row["total_frames"], frames) for piece in row["dense_captions"]]
    sample: dict[str, Any] = {
        "parsed": bool(pieces),
        "pred_segments": [list(span) for span, _ in pieces],
        "pred_captions": [caption for _, caption in pieces],
        "gt_segments": [list(span) for span in targets],
        "SODA_c": 0.0,
    }
    if not pieces:
        return sample
    judged = np.asarray(given, dtype=np.float64)
    if judged.shape != (len(targets), len(pieces)):
        raise InputError(
            f"scores of one answer have the shape {list(judged.shape)}; {[len(targets), len(pieces)]} is expected, for "
            f"{len(targets)} reference and {len(pieces)} predicted captions"
        )
    if not ((judged >= 0) & (judged <= 1)).all():
        raise InputError(f"scores lie between {judged.min():g} and {judged.max():g}; numbers from 0 to 1 are expected")
    overlap = overlaps(targets, [span for span, _ in pieces])
    best, pairs = assignment(overlap * judged)
    precision, recall = best / len(pieces), best / len(targets)
    score = 2 * precision * recall / (precision + recall) if best > 0 else 0.0
    return {**sample, "iou": overlap.tolist(), "max_score": best, "pairs": pairs, "SODA_c": score}


def total(scores: Mapping[str, float]) -> float:
    """Compute the published average: the mean of FGQA, SGQA and the mean of the three tasks on regions.

    It is not the plain mean of the five.

    Args:
        scores: The scores of the five tasks by name.

    Raises:
        InputError: A task is missing.
    """
    missing = [name for name in ("fgqa", "sgqa", *REGIONS) if name not in scores]
    if missing:
        raise InputError(f"scores lacks {', '.join(missing)}: the total is of all five tasks")
    return float(np.mean([scores["fgqa"], scores["sgqa"], np.mean([scores[name] for name in REGIONS])]))


def reference_span(piece: Row, total_frames: int, frames: int = FRAMES) -> Span:
    """Return the window of a row or a dense caption in the frames that the model sees."""
    return rescale(piece["start_frame"], total_frames, frames), rescale(piece["end_frame"], total_frames, frames)


def overlaps(first: Sequence[Span], second: Sequence[Span]) -> Floats:
    """Compute the intersection over union of every pair of windows, [len(first), len(second)].

    Ends are points in time, so a window of one frame has no length. The ends of a window may come in any order.
    """
    a, b = (np.sort(np.asarray(spans, dtype=np.float64), axis=1) for spans in (first, second))
    a = a[:, None]
    with np.errstate(invalid="ignore"):  # of `NOWHERE`
        inter = np.maximum(0.0, np.minimum(a[..., 1], b[:, 1]) - np.maximum(a[..., 0], b[:, 0]))
        hull = np.maximum(a[..., 1], b[:, 1]) - np.minimum(a[..., 0], b[:, 0])
        lengths = (a[..., 1] - a[..., 0]) + (b[:, 1] - b[:, 0])
        union = np.fmin(hull, lengths)
    return np.asarray(inter / (union + EPSILON))


def assignment(weights: ArrayLike) -> tuple[float, list[list[int]]]:
    """Find the assignment of rows to columns with the largest sum that keeps the order of both.

    Args:
        weights: What each pair counts, not negative, [G, P].

    Returns:
        The sum, and its pairs ``[row, column]`` in order. Pairs that count nothing are left out. Sums that differ by
        less than `EPSILON` are equal for the choice of pairs, since it makes the overlaps of windows differ by as much.
    """
    matrix = np.asarray(weights, dtype=np.float64)
    best = np.zeros((matrix.shape[0] + 1, matrix.shape[1] + 1))
    for i, row in enumerate(matrix):
        # the best sum up to a column is the running maximum of those that end in it
        best[i + 1, 1:] = np.maximum.accumulate(np.maximum(best[i, 1:], best[i, :-1] + row))
    pairs = []
    i, j = matrix.shape
    while i and j and best[i, j] > EPSILON:
        if best[i, j - 1] >= best[i, j] - EPSILON:
            j -= 1
        elif best[i - 1, j] >= best[i, j] - EPSILON:
            i -= 1
        else:
            i, j = i - 1, j - 1
            pairs.append([i, j])
    return float(best[-1, -1]), pairs[::-1]


def _pairs(predictions: Sequence[str], rows: Sequence[Row]) -> Iterable[tuple[str, Row]]:
    if len(predictions) != len(rows):
        raise InputError(f"predictions has {len(predictions)} answers for {len(rows)} rows; one for each is expected")
    for prediction in predictions:
        if not isinstance(prediction, str):
            raise InputError(f"prediction {shown(repr(prediction))} is not allowed: a text is")
    return zip(predictions, rows, strict=True)


def _metric(values: Sequence[float], samples: list[dict[str, Any]]) -> Metric:
    if not values:
        raise InputError("there is nothing to score: one answer or more is expected")
    array = np.asarray(values, dtype=np.float64)
    return Metric(float(array.mean()), array, samples)
