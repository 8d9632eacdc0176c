"""ZipIt!: networks that were trained on different tasks become one, without training (arXiv 2305.03053).

    import zipit

    merged = zipit.merge([model_a, model_b], batches)                 # one model of the same class
    merged = zipit.merge([model_a, model_b], batches, until="layer3")  # a trunk, and a head of each model
    print(zipit.graph(model_a, images))                               # what is merged, and where it is seen

Importing this package imports neither torch nor timm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plm_core.utils.lazy import attributes

if TYPE_CHECKING:
    from zipit.api import average, merge, permute
    from zipit.checking import Check, check
    from zipit.graphs import Graph, cuts, graph
    from zipit.matching import match
    from zipit.norms import reset_norms
    from zipit.observed import Observed
    from zipit.parts import Merged
    from zipit.sweeping import sweep

    __version__: str

_LAZY = {
    "Check": "zipit.checking",
    "Graph": "zipit.graphs",
    "Merged": "zipit.parts",
    "Observed": "zipit.observed",
    "average": "zipit.api",
    "check": "zipit.checking",
    "cuts": "zipit.graphs",
    "graph": "zipit.graphs",
    "match": "zipit.matching",
    "merge": "zipit.api",
    "permute": "zipit.api",
    "reset_norms": "zipit.norms",
    "sweep": "zipit.sweeping",
}

__all__ = [
    "Check",
    "Graph",
    "Merged",
    "Observed",
    "__version__",
    "average",
    "check",
    "cuts",
    "graph",
    "match",
    "merge",
    "permute",
    "reset_norms",
    "sweep",
]

__getattr__, __dir__ = attributes(__name__, "zipit", _LAZY)
