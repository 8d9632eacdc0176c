"""The scores of a model on held-out conversations, by one forward pass and without generation.

An answer that greedy decoding would give is one whose every token is the most likely one after those before it. So a
forward pass over the right answer tells whether decoding would give it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from plm_core.lm.chat import IGNORE, ChatEncoder
from plm_core.lm.data import Sample, pack
from plm_core.utils.progress import track

SHORT = 8
"""The most tokens of a short answer, for which only one wording counts."""
AT_ONCE = 4
"""Conversations in one forward pass."""


@torch.no_grad()
def score(
    learner: nn.Module, data: Dataset[Sample], encoder: ChatEncoder, *, turns: bool = True, num_workers: int = 0
) -> dict[str, float]:
    """Return the mean loss over all targets, and the share of the short answers that greedy decoding would give.

    Args:
        learner: A `plm_core.lm.documents.Learner` in eval mode.
        data: The conversations.
        encoder: What encoded them.
        turns: Whether answers have headers, and short ones are counted.
        num_workers: Processes that load data.

    Returns:
        The scores by name. There is no score of short answers where there are none.
    """
    device = next(learner.parameters()).device
    header = encoder.tokenizer.encode(encoder.format.header_of("assistant"), add_special_tokens=False)
    total = targets = right = short = 0.0
    loader: Any = DataLoader(data, AT_ONCE, collate_fn=pack, num_workers=num_workers)
    for batch in track(loader, "scoring", len(loader)):
        batch = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
        expected = batch["labels"][0][batch["labels"][0] != IGNORE]
        logits = learner(batch, logits=True).float()
        total += float(nn.functional.cross_entropy(logits, expected, reduction="sum"))
        targets += len(expected)
        hits = (logits.argmax(1) == expected).tolist()
        for places in answers(batch["labels"][0].tolist(), header, encoder.stop_ids) if turns else ():
            short += 1
            right += all(hits[place] for place in places)
    scores = {"held-out loss": total / max(targets, 1)}
    return scores | ({"held-out short answers %": 100 * right / short} if short else {})


def answers(labels: Sequence[int], header: Sequence[int], stops: Sequence[int]) -> Iterator[range]:
    """Yield the tokens of each short answer in a row, up to the one that ends it, as places among all targets.

    Args:
        labels: The labels of a packed row.
        header: The tokens that come before each answer, which generation is given.
        stops: The tokens that end one.
    """
    start = 0
    run: list[int] = []
    for label in (*labels, IGNORE):
        if label != IGNORE:
            run.append(label)
        elif run:
            first, end = _bounds(run, header, stops)
            if 0 < end - first <= SHORT + 1:  # the token that ends it counts too
                yield range(start + first, start + end)
            start, run = start + len(run), []


def _bounds(ids: Sequence[int], header: Sequence[int], stops: Sequence[int]) -> tuple[int, int]:
    """Return where an answer begins after its header, and where it ends."""
    first = 0
    while first < min(len(header), len(ids)) and ids[first] == header[first]:
        first += 1
    end = next((place for place in range(first, len(ids)) if ids[place] in stops), len(ids) - 1)
    return first, end + 1
