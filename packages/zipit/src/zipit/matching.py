"""Which features become one: the matching of ZipIt! and those it is compared with (arXiv 2305.03053, section 4).

The features of N models at one place are concatenated, those of the first model first. A matching divides these O
features into R groups, and each group becomes one feature: the mean of its members.

Shapes: O features of all models, R groups.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from plm_core import InputError
from plm_core.utils.ranges import check_choice

EPS = 1e-5
"""What the original adds to the size of a group before it divides by it."""

DEAD = 1e-12
"""The share of the largest variance up to which a feature is dead. The original has a limit that depends on scale."""
TIE = 1e-9
"""What a feature of the same number is preferred by in an assignment, less than any real difference."""

Floats = NDArray[np.float64]
Groups = NDArray[np.int64]
"""The group of each feature, int64 [O], numbered in the order of their first members."""
Matcher = Callable[[Floats, int], Groups]
"""A function from correlations of O features of all models and the number of groups to the group of each."""


def match(
    covariance: ArrayLike | Tensor,
    r: float = 0.5,
    models: int = 2,
    method: str = "zipit",
    *,
    a: float = 0.3,
    b: float = 0.125,
    legacy: bool = False,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Divide the features of several models into groups that become one feature each.

    Args:
        covariance: Covariance of the features of all models, [O, O], those of the first model first.
        r: Share of the features that goes away, from 0 to below 1: R = O (1 - r). With N models, ``1 - 1/N`` makes one
            model of them.
        models: Number of models. O is a multiple of it.
        method: ``zipit`` (the pair with the largest correlation becomes one, again and again), ``permute`` (each model
            is assigned to the first, by the Hungarian method), ``identity`` (features with the same number),
            ``optimal`` (the pairing with the largest sum of correlations, of two models), or ``kmeans``.
        a: For ``zipit``: the factor on the correlations of a group, each time that it grows, from 0 to 1. Small values
            make groups of two. With 0, a group is never merged with features of the models that it has.
        b: For ``zipit``: the share of a model's merges that may be within the model, from 0 to 1. One is always
            allowed, as in the original.
        legacy: For ``zipit``: whether to do as the original where it errs: with more than two models it may run out of
            pairs, and then drops features, and with ``a=0`` it forbids other pairs than those that are meant.
        seed: For ``kmeans``: random seed.

    Returns:
        Merge, float32 [R, O], and unmerge, float32 [O, R]. A row of the merge averages the members of a group, and a
        row of the unmerge says which group a feature is in.

    Raises:
        InputError: An argument is out of its range, or the covariance is not square, finite or a multiple of the
            models.
    """
    c = _checked(covariance, models)
    groups_left = _groups_left(len(c), r)
    matcher = matcher_of(method, models, a=a, b=b, legacy=legacy, seed=seed)
    return matrices(matcher(correlation(c), groups_left), groups_left)


def matcher_of(
    method: str, models: int, *, a: float = 0.3, b: float = 0.125, legacy: bool = False, seed: int = 0
) -> Matcher:
    """Return the matching of a method, with its options, see `match`.

    Raises:
        InputError: There is no such method, or an option is out of its range.
    """
    check_choice("method", method, METHODS)
    _check_share("a", a)
    _check_share("b", b)
    every: dict[str, dict[str, Any]] = {"zipit": {"a": a, "b": b, "legacy": legacy}, "kmeans": {"seed": seed}}
    options = every.get(method, {})
    return lambda similarity, number: METHODS[method](similarity, number, models, **options)


def matrices(groups: Groups, number: int, eps: float = EPS) -> tuple[Tensor, Tensor]:
    """Return the merge [R, O] and the unmerge [O, R] of groups, float32. A feature in group -1 is in none."""
    unmerge = torch.zeros(len(groups), number)
    members = np.flatnonzero(groups >= 0)
    unmerge[members, groups[members]] = 1
    return (unmerge / (unmerge.sum(0) + eps)).T.contiguous(), unmerge


def correlation(covariance: Floats) -> Floats:
    """Return the correlations of features, from -1 to 1. A dead feature has 0 with all others."""
    variance = np.diag(covariance)
    alive = variance > DEAD * variance.max()
    inverse = np.zeros(len(variance))
    inverse[alive] = variance[alive] ** -0.5
    return covariance * inverse * inverse[:, None]


# --- the methods: correlations [O, O], number of groups, number of models -> groups ---------------------------------


def _zipit(similarity: Floats, number: int, models: int, a: float, b: float, legacy: bool) -> Groups:
    """Merge the most similar pair until the wanted number of groups is left.

    A group is as similar to another as the least similar of their features, times ``a`` for each time that one of them
    grew. When a model has used up its merges within itself, no further pair of its features is allowed.
    """
    total = len(similarity)
    origin = np.minimum(np.arange(total) // (total // models), models - 1)
    budget = np.full(models, int((total - number) // models * b + 1e-4))
    linkage = _Linkage(similarity, a)
    bans = True
    for _ in range(total - number):
        pair = linkage.best()
        if pair is None and legacy:  # the original then loses its first group
            linkage.drop_first()
            continue
        if pair is None:  # the bans have left no pair: the rest is merged without them
            linkage.lift_bans()
            bans, pair = False, linkage.best()
        i, j = pair  # type: ignore[misc]
        linkage.merge(i, j)
        if not bans:
            continue
        if a <= 0:
            linkage.ban(i, linkage.positions(origin[[i, j]], total // models) if legacy else linkage.kin(i, origin))
        if origin[i] == origin[j]:
            budget[origin[i]] -= 1
            if budget[origin[i]] <= 0:
                linkage.ban_within(origin == origin[i])
    return linkage.groups()


class _Linkage:
    """The similarities between groups, with the best partner of each, so that a merge costs a few rows.

    A group has the number of its first member. Pairs that are banned, and those with a group that is gone, have -inf.
    """

    def __init__(self, similarity: Floats, a: float) -> None:
        self.similarity = similarity.astype(np.float32)
        np.fill_diagonal(self.similarity, -np.inf)
        self.factor = np.float32(a if a > 0 else 1)
        self.alive = np.ones(len(similarity), dtype=bool)
        self.gone = np.zeros(len(similarity), dtype=np.float32)  # -inf for a group that is gone, whose column stays
        self.history: list[tuple[int, int]] = []
        self.lost: list[int] = []
        self.s = self.similarity.copy()
        self.partner = self.s.argmax(1)
        self.value = self.s.max(1)

    def best(self) -> tuple[int, int] | None:
        """Return the first of the pairs with the largest similarity, or None if all are banned."""
        row = int(self.value.argmax())
        return None if self.value[row] == -np.inf else (row, int(self.partner[row]))

    def merge(self, i: int, j: int) -> None:
        """Let group i take in group j, which has a larger number."""
        self.history.append((i, j))
        self._leave(j)
        new = self._join(i, j)
        changed = (new >= self.value) | (self.partner == i) | (self.partner == j)
        changed &= self.alive
        changed[i] = True
        self._scan(changed.nonzero()[0])

    def _join(self, i: int, j: int) -> Any:
        row = np.minimum(self.s[i], self.s[j], out=self.s[i])
        row *= self.factor
        row[i] = -np.inf
        self.s[:, i] = row
        return row + self.gone

    def _leave(self, j: int) -> None:
        self.alive[j] = False
        self.gone[j] = self.value[j] = -np.inf

    def ban(self, i: int, others: Groups) -> None:
        """Ban the pairs of a group with others."""
        self.s[i, others] = self.s[others, i] = -np.inf
        self._scan(np.append(others, i))

    def ban_within(self, members: NDArray[np.bool_]) -> None:
        """Ban all pairs of some groups."""
        rows = np.flatnonzero(members & self.alive)
        self.s[np.ix_(rows, rows)] = -np.inf
        self._scan(rows)

    def kin(self, i: int, origin: Groups) -> Groups:
        """Return the groups that have features of a model of which group i has some."""
        owner = self.owners()
        own = np.isin(origin, origin[owner == i])
        return np.setdiff1d(owner[own & (owner >= 0)], [i])

    def positions(self, origins: Groups, width: int) -> Groups:
        """Return the groups that the original takes for those of some models: it forgets the groups that are gone."""
        left = np.flatnonzero(self.alive)
        return np.concatenate([left[origin * width : (origin + 1) * width] for origin in origins])

    def drop_first(self) -> None:
        """Lose the first group, and all its features."""
        first = int(self.alive.argmax())
        self.lost.append(first)
        self._leave(first)

    def lift_bans(self) -> None:
        """Compute the similarities anew, without bans."""
        self.s[:] = self.similarity
        for i, j in self.history:
            self._join(i, j)
        self._scan(np.flatnonzero(self.alive))

    def _scan(self, rows: Groups) -> None:
        """Find the best partners of some groups anew."""
        if len(rows):
            part = self.s[rows] + self.gone
            self.partner[rows] = best = part.argmax(1)
            self.value[rows] = part[np.arange(len(rows)), best]

    def owners(self) -> Groups:
        """Return the first member of the group of each feature; -1 for a lost one."""
        owner = np.arange(len(self.s))
        for i, j in reversed(self.history):  # what a group has taken in goes where the group itself goes
            owner[j] = owner[i]
        owner[np.isin(owner, self.lost)] = -1
        return owner

    def groups(self) -> Groups:
        """Return the group of each feature, numbered in the order of their first members; -1 for a lost one."""
        owner = self.owners()
        number = np.cumsum(self.alive) - 1
        return np.where(owner < 0, -1, number[owner])


def _permute(similarity: Floats, number: int, models: int) -> Groups:
    """Assign the features of each model to those of the first, for the largest sum of correlations."""
    _check_whole("permute", number, len(similarity), models)
    others = [similarity[:number, m * number : (m + 1) * number] for m in range(1, models)]
    return np.concatenate([np.arange(number), *(assigned(scores) for scores in others)])


def assigned(scores: Floats) -> Groups:
    """Return the row that each column is assigned to, [n], for the largest sum of scores, [n, n].

    Where scores are equal, as those of dead features, a column keeps its number.
    """
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(scores + TIE * np.eye(len(scores)), maximize=True)
    result = np.empty(len(scores), dtype=np.int64)
    result[columns] = rows
    return result


def _identity(similarity: Floats, number: int, models: int) -> Groups:
    """Put features with the same number into one group: the average of the weights."""
    _check_whole("identity", number, len(similarity), models)
    return np.tile(np.arange(number), models)


def _optimal(similarity: Floats, number: int, models: int) -> Groups:
    """Pair all features, within models or across, for the largest sum of correlations (the blossom method)."""
    if models != 2 or 2 * number != len(similarity):
        raise InputError(f"method 'optimal' makes pairs of the features of two models; models is {models}")
    import networkx as nx

    total = len(similarity)
    graph = nx.Graph()
    least = similarity.min() - 1  # with weights above zero, each feature has a partner
    graph.add_weighted_edges_from((i, j, similarity[i, j] - least) for i in range(total) for j in range(i + 1, total))
    pairs = sorted(tuple(sorted(pair)) for pair in nx.max_weight_matching(graph, maxcardinality=True))
    groups = np.empty(total, dtype=np.int64)
    for group, pair in enumerate(pairs):
        groups[list(pair)] = group
    return groups


def _kmeans(similarity: Floats, number: int, models: int, seed: int) -> Groups:
    """Cluster the features by their correlations with all others."""
    from sklearn.cluster import KMeans

    labels = KMeans(number, n_init=1, random_state=seed).fit(similarity).labels_
    _, first, groups = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[groups]


METHODS: Mapping[str, Callable[..., Groups]] = {
    "zipit": _zipit,
    "permute": _permute,
    "identity": _identity,
    "optimal": _optimal,
    "kmeans": _kmeans,
}


# --- arguments ------------------------------------------------------------------------------------------------------


def _checked(covariance: Any, models: int) -> Floats:
    if isinstance(models, bool) or not isinstance(models, int) or models < 1:
        raise InputError(f"models is {models!r}; a whole number from 1 on is allowed")
    values = covariance.detach().cpu().numpy() if isinstance(covariance, Tensor) else np.asarray(covariance)
    if values.ndim != 2 or values.shape[0] != values.shape[1] or not len(values):
        raise InputError(f"covariance has shape {list(values.shape)}; [features, features] is expected")
    if len(values) % models:
        raise InputError(f"covariance has {len(values)} features, which is no multiple of {models} models")
    if not np.isfinite(values).all():
        raise InputError("covariance has values that are not finite")
    return _symmetric(values.astype(np.float64))


def _symmetric(x: Floats, size: int = 256) -> Floats:
    """Average a matrix with its transpose, in place. Blocks stay in the cache, where whole rows and columns do not."""
    for i in range(0, len(x), size):
        for j in range(i, len(x), size):
            mean = (x[i : i + size, j : j + size] + x[j : j + size, i : i + size].T) / 2
            x[i : i + size, j : j + size] = mean
            x[j : j + size, i : i + size] = mean.T
    return x


def _groups_left(total: int, r: float) -> int:
    if isinstance(r, bool) or not isinstance(r, int | float) or not 0 <= r < 1:
        raise InputError(f"r is {r!r}; a number from 0 to below 1 is allowed")
    return max(int(total * (1 - r) + 1e-4), 1)


def _check_share(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise InputError(f"{name} is {value!r}; a number from 0 to 1 is allowed")


def _check_whole(method: str, number: int, total: int, models: int) -> None:
    if number * models != total:
        raise InputError(
            f"method {method!r} makes one model of {models}, so r has to be {1 - 1 / models:.4g}; "
            f"r leaves {number} of {total} features"
        )
