"""Which of these models should I fine-tune on my data? Scores that need no training (arXiv 2111.06977).

    import parc

    parc.score("parc", features, labels, pca=32)   # one model: the higher, the better its features suit the labels
    parc.rank("photos/", ["resnet*", "pe_*"])      # many models on a folder of images; also `plm rank`
    parc.probe("photos/", ["resnet50"])            # the accuracy of a classifier on their features; also `plm probe`

Importing this package imports neither torch nor timm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plm_core.utils.lazy import attributes

if TYPE_CHECKING:
    from parc import benchmark
    from parc.catalog import methods
    from parc.probing import probe
    from parc.ranking import rank
    from parc.sampling import sample_probe
    from parc.scoring import Features, score, score_bank

    __version__: str

_LAZY = {
    "Features": "parc.scoring",
    "benchmark": "",
    "methods": "parc.catalog",
    "probe": "parc.probing",
    "rank": "parc.ranking",
    "sample_probe": "parc.sampling",
    "score": "parc.scoring",
    "score_bank": "parc.scoring",
}

__all__ = [
    "Features",
    "__version__",
    "benchmark",
    "methods",
    "probe",
    "rank",
    "sample_probe",
    "score",
    "score_bank",
]

__getattr__, __dir__ = attributes(__name__, "parc", _LAZY)
