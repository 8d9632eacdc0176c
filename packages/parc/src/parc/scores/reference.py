"""The features of a model that was trained on the dataset, with what rsa and dds compute of them, each once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from parc.scores.inputs import Array, features_of
from parc.scores.linalg import standardize
from parc.scores.pairs import Distances, correlated, from_rows, ranks, unit_rows, whole_matrix
from parc.scores.pca import clip_components, reduce
from plm_core.errors import InputError


class Reference(np.ndarray[Any, np.dtype[Any]]):
    """Reference features [N, D'] that cannot be changed, so what follows from them is computed once for all models.

    For any other score it is an array.
    """

    _kept: dict[Any, Any]

    def __new__(cls, features: Any, n: int | None = None) -> Reference:
        """Check features and copy them.

        Args:
            features: See `parc.scores.inputs.features_of`. A reference is returned unchanged.
            n: Expected number of images.

        Raises:
            InputError: The features are not allowed.
        """
        checked = features_of(features, "reference_features", n)
        if isinstance(features, Reference):
            return features
        reference = checked.copy().view(cls)
        reference.flags.writeable = False
        return reference

    def __array_finalize__(self, origin: Any) -> None:
        self._kept = {}  # a part or a copy has its own

    def reduced(self, pca: int | str | None, clip: bool = False) -> Reference:
        """Return the reference in its first principal components, see `parc.scores.pca.reduce`.

        Args:
            pca: The reduction.
            clip: Whether fewer dimensions than it asks for are kept as they are; otherwise they are an error.

        Raises:
            InputError: There are fewer dimensions, or ``pca`` has another form.
        """
        if clip:
            pca = clip_components(pca, self.shape[1])
        if pca is None:
            return self
        try:
            return self.once(("reduced", pca), lambda: Reference(reduce(np.asarray(self), pca)))
        except InputError as e:
            raise InputError(f"reference_features: {e}") from None

    @property
    def ranks(self) -> Array:
        """Ranks of the distances of all pairs, see `parc.scores.pairs.ranks`."""
        return self.once("ranks", lambda: ranks(self._pairs(), len(self), "reference_features"))

    @property
    def distances(self) -> Array:
        """The whole matrix of distances, int32 [N, N]."""
        return self.once("distances", lambda: whole_matrix(self._pairs(), len(self)))

    @property
    def unit_rows(self) -> Array:
        """The standardized features, scaled to rows of unit length, float64 [N, D']."""
        return self.once("unit rows", lambda: unit_rows(standardize(np.asarray(self).astype(np.float64))))

    def _pairs(self) -> Distances:
        return from_rows(correlated(np.asarray(self)))

    def once(self, key: Any, compute: Callable[[], Any]) -> Any:
        """Return a result that depends on the reference alone, computed for the first caller.

        Args:
            key: The name of the result.
            compute: The function that computes it.
        """
        if key not in self._kept:
            self._kept[key] = compute()
        return self._kept[key]
