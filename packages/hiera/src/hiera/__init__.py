"""Hiera: a hierarchical vision transformer without the bells and whistles (arXiv 2306.00989).

    import hiera

    model = hiera.Hiera(input_size=(224, 224), num_classes=10)     # the original's constructor and outputs
    model = timm.create_model("hiera_image_tiny_224")              # the same network as a timm model: it returns logits

Importing this package imports neither torch nor timm. From then on, timm can create our models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plm_core.utils.lazy import attributes

if TYPE_CHECKING:
    from hiera.dense.fpn import FpnNeck, HieraDetFpn
    from hiera.hieradet import HieraDet
    from hiera.layers import HieraBlock, MaskUnitAttention
    from hiera.mae import MaskedAutoencoderHiera
    from hiera.model import Hiera
    from hiera.vitdet import ViTDet

    __version__: str

_LAZY = {
    "FpnNeck": "hiera.dense.fpn",
    "Hiera": "hiera.model",
    "HieraBlock": "hiera.layers",
    "HieraDet": "hiera.hieradet",
    "HieraDetFpn": "hiera.dense.fpn",
    "MaskUnitAttention": "hiera.layers",
    "MaskedAutoencoderHiera": "hiera.mae",
    "ViTDet": "hiera.vitdet",
}

__all__ = [
    "FpnNeck",
    "Hiera",
    "HieraBlock",
    "HieraDet",
    "HieraDetFpn",
    "MaskUnitAttention",
    "MaskedAutoencoderHiera",
    "ViTDet",
    "__version__",
]

# The import of plm_core above also registers our models with timm.
__getattr__, __dir__ = attributes(__name__, "hiera", _LAZY)
