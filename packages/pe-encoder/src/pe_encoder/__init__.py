"""Perception Encoder: the best visual embeddings are not at the output of the network (arXiv 2504.13181).

    import pe_encoder

    model = timm.create_model("pe_core_b16_224")        # the vision tower, as a timm model
    clip = timm.create_model("pe_clip_b16_224")         # both towers
    tower = pe_encoder.VisionTower(patch_size=16, ...)  # the original's constructor and outputs

Importing this package imports neither torch nor timm. From then on, timm can create our models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plm_core.utils.lazy import attributes

if TYPE_CHECKING:
    from pe_encoder import retrieval, zeroshot
    from pe_encoder.clip import CLIP
    from pe_encoder.configs import BEST_LAYER
    from pe_encoder.model import VisionTower
    from pe_encoder.preprocessing import preprocess
    from pe_encoder.text import TextTower
    from pe_encoder.tokenization import tokenizer

    __version__: str

_LAZY = {
    "BEST_LAYER": "pe_encoder.configs",
    "CLIP": "pe_encoder.clip",
    "TextTower": "pe_encoder.text",
    "VisionTower": "pe_encoder.model",
    "preprocess": "pe_encoder.preprocessing",
    "retrieval": "",
    "tokenizer": "pe_encoder.tokenization",
    "zeroshot": "",
}

__all__ = [
    "BEST_LAYER",
    "CLIP",
    "TextTower",
    "VisionTower",
    "__version__",
    "preprocess",
    "retrieval",
    "tokenizer",
    "zeroshot",
]

# The import of plm_core above also registers our models with timm.
__getattr__, __dir__ = attributes(__name__, "pe-encoder", _LAZY)
