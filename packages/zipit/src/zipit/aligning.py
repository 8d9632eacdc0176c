"""The merged feature of each feature of a model: first blocks are assigned, such as heads, then what is in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from zipit.matching import Floats, Groups, Matcher, assigned
from zipit.tracing.groups import Group


def align(
    groups: Sequence[Group], similar: Mapping[int, Floats], chosen: Sequence[int], models: int, match: Matcher
) -> dict[int, Groups]:
    """Return the merged feature that each feature of all models becomes, by the number of the group.

    Blocks are assigned to those of the first model by the Hungarian method, for the largest similarity of what is in
    them. Then the features in blocks that belong together are matched.

    Args:
        groups: The groups.
        similar: Similarities of the features of all models, such as correlations, float64 [O, O], by the number of the
            group, of those that are known. Those of groups without any keep their numbers.
        chosen: The numbers of the groups that are merged.
        models: Number of models.
        match: The matching of features that are in no block, or in blocks that belong together.
    """
    parts: dict[int, list[int]] = {}
    for number in chosen:
        if groups[number].owner >= 0:
            parts.setdefault(groups[number].owner, []).append(number)
    result: dict[int, Groups] = {}

    def aligned(number: int) -> Groups:
        if number not in result:
            group = groups[number]
            owners = aligned(group.owner) if group.owner >= 0 else np.zeros(models, dtype=np.int64)
            blocks = group.blocks if group.owner >= 0 else np.zeros(group.size, dtype=np.int64)
            pieces = _pieces(blocks, owners, models)
            if number in parts:
                scores = np.sum([_of_blocks(groups[part], similar.get(part), models) for part in parts[number]], axis=0)
                result[number] = _assigned(scores, pieces, models)
            elif number in similar:
                result[number] = _matched(similar[number], pieces, match)
            else:
                result[number] = np.tile(np.arange(group.size), models)
        return result[number]

    for number in chosen:
        aligned(number)
    return result


def _pieces(blocks: Groups, owners: Groups, models: int) -> list[list[Groups]]:
    """Return the features of blocks that belong together, those of each model: a list of [models] arrays."""
    count = len(owners) // models
    pieces = []
    for block in range(count):
        theirs = [int(np.flatnonzero(owners[m * count : (m + 1) * count] == block)[0]) for m in range(models)]
        pieces.append([np.flatnonzero(blocks == own) for own in theirs])
    return pieces


def _of_blocks(part: Group, similar: Floats | None, models: int) -> Floats:
    """Return how similar the blocks of each model are to those of the first, [models, blocks, blocks].

    That is the sum over the features of a block, each with the one that it is assigned to.
    """
    count = int(part.blocks.max()) + 1
    if similar is None:
        return np.zeros((models, count, count))
    order = np.argsort(part.blocks, kind="stable")
    size = part.size // count
    scores = np.zeros((models, count, count))
    for m in range(1, models):
        corner = similar[: part.size, m * part.size : (m + 1) * part.size][np.ix_(order, order)]
        for one, other in np.ndindex(count, count):
            block = corner[one * size : (one + 1) * size, other * size : (other + 1) * size]
            scores[m, one, other] = block[assigned(block), np.arange(size)].sum()
    return scores


def _assigned(scores: Floats, pieces: list[list[Groups]], models: int) -> Groups:
    """Assign the features of each model to those of the first, within pieces that belong together."""
    size = scores.shape[1]
    result = np.tile(np.arange(size), models)
    for piece in pieces:
        for m in range(1, models):
            rows = assigned(scores[m][np.ix_(piece[0], piece[m])])
            result[m * size + piece[m]] = piece[0][rows]
    return result


def _matched(similar: Floats, pieces: list[list[Groups]], match: Matcher) -> Groups:
    """Match the features within pieces that belong together."""
    models = len(pieces[0])
    size = len(similar) // models
    result = np.empty(len(similar), dtype=np.int64)
    for piece in pieces:
        members = np.concatenate([m * size + features for m, features in enumerate(piece)])
        result[members] = piece[0][match(similar[np.ix_(members, members)], len(piece[0]))]
    return result
