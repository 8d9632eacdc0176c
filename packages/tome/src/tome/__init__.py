"""Token Merging: make a vision transformer faster by merging similar tokens (arXiv 2210.09461, 2303.17604).

    import tome

    tome.apply(model, r=8)   # a timm, torchvision or transformers ViT, or a diffusers pipeline with ratio=0.5
    tome.remove(model)

Importing this package imports neither torch nor timm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plm_core.utils.lazy import attributes

if TYPE_CHECKING:
    from tome.api import applied, apply, remove, settings_of
    from tome.matching import (
        bipartite_soft_matching,
        kth_bipartite_soft_matching,
        merge_source,
        merge_wavg,
        random_bipartite_soft_matching,
    )
    from tome.vit.tracing import schedule_of, trace

    __version__: str

_LAZY = {
    "applied": "tome.api",
    "apply": "tome.api",
    "bipartite_soft_matching": "tome.matching",
    "diffusion": "",
    "finetuning": "",
    "kth_bipartite_soft_matching": "tome.matching",
    "merge_source": "tome.matching",
    "merge_wavg": "tome.matching",
    "pictures": "",
    "random_bipartite_soft_matching": "tome.matching",
    "remove": "tome.api",
    "schedule_of": "tome.vit.tracing",
    "settings_of": "tome.api",
    "trace": "tome.vit.tracing",
    "vit": "",
}

__all__ = [
    "__version__",
    "applied",
    "apply",
    "bipartite_soft_matching",
    "kth_bipartite_soft_matching",
    "merge_source",
    "merge_wavg",
    "random_bipartite_soft_matching",
    "remove",
    "schedule_of",
    "settings_of",
    "trace",
]

__getattr__, __dir__ = attributes(__name__, "tome", _LAZY)
