"""Gaze-LLE: where is each person in a picture looking (arXiv 2412.09586)?

    import gazelle

    model = gazelle.GazeLLE("vit_base_patch14_dinov2", inout=True).eval()
    features = model.encode(images)                        # the scene, once
    gaze = model.decode(features, [[(0.1, 0.2, 0.3, 0.5), None]])  # any people, as often as wanted
    gaze["heatmap"][0].shape, gaze["inout"][0].shape       # [2, 64, 64], [2]

Importing this package imports neither torch nor timm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plm_core.utils.lazy import attributes

if TYPE_CHECKING:
    from gazelle.boxes import head_maps
    from gazelle.builders import load_release
    from gazelle.decoder import Decoder, Gaze
    from gazelle.estimation import Estimator, Look
    from gazelle.model import GazeLLE
    from gazelle.pictures import overlay, paint
    from gazelle.preprocessing import preprocess

    __version__: str

_LAZY = {
    "Decoder": "gazelle.decoder",
    "Gaze": "gazelle.decoder",
    "Estimator": "gazelle.estimation",
    "GazeLLE": "gazelle.model",
    "Look": "gazelle.estimation",
    "head_maps": "gazelle.boxes",
    "load_release": "gazelle.builders",
    "overlay": "gazelle.pictures",
    "paint": "gazelle.pictures",
    "preprocess": "gazelle.preprocessing",
}

__all__ = [
    "Decoder",
    "Estimator",
    "Gaze",
    "GazeLLE",
    "Look",
    "__version__",
    "head_maps",
    "load_release",
    "overlay",
    "paint",
    "preprocess",
]

__getattr__, __dir__ = attributes(__name__, "gazelle", _LAZY)
