"""A bank of models ranked on a dataset."""

from parc.ranking.run import METHODS, Interrupted, RankedRow, Ranking, rank

__all__ = ["METHODS", "Interrupted", "RankedRow", "Ranking", "rank"]
