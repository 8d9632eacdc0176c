"""Gaze-LLE: where is each person in a picture looking (arXiv 2412.09586)?

    import gazelle

    model = gazelle.GazeLLE("vit_base_patch14_dinov2", inout=True).eval()
    features = model.encode(images)                                # the scene, once
    gaze = model.decode(features, [[(0.1, 0.2, 0.3, 0.5), None]])  # any people, as often as wanted
    gaze["heatmap"][0].shape, gaze["inout"][0].shape               # [2, 64, 64], [2]

- ``people``: heads in pictures, found offline or read from files.
- ``data``, ``targets``, ``metrics``: the public datasets, the maps that models are trained on, the benchmarks' scores.
- ``pictures``: heatmaps over images, and what everybody in a picture looks at.
- ``video``: gaze over the frames of a video.

Importing this package imports neither torch nor timm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plm_core.utils.lazy import attributes

if TYPE_CHECKING:
    from gazelle import data, metrics, people, pictures, targets, video
    from gazelle.boxes import head_maps
    from gazelle.builders import load_release
    from gazelle.decoder import Decoder, Gaze
    from gazelle.estimation import Estimator, Look
    from gazelle.exporting import Exportable, export, export_onnx
    from gazelle.model import GazeLLE
    from gazelle.preprocessing import preprocess

    __version__: str

_LAZY = {
    "Decoder": "gazelle.decoder",
    "Estimator": "gazelle.estimation",
    "Exportable": "gazelle.exporting",
    "Gaze": "gazelle.decoder",
    "GazeLLE": "gazelle.model",
    "Look": "gazelle.estimation",
    "data": "",
    "export": "gazelle.exporting",
    "export_onnx": "gazelle.exporting",
    "head_maps": "gazelle.boxes",
    "load_release": "gazelle.builders",
    "metrics": "",
    "people": "",
    "pictures": "",
    "preprocess": "gazelle.preprocessing",
    "targets": "",
    "video": "",
}

__all__ = [
    "Decoder",
    "Estimator",
    "Exportable",
    "Gaze",
    "GazeLLE",
    "Look",
    "__version__",
    "data",
    "export",
    "export_onnx",
    "head_maps",
    "load_release",
    "metrics",
    "people",
    "pictures",
    "preprocess",
    "targets",
    "video",
]

__getattr__, __dir__ = attributes(__name__, "gazelle", _LAZY)
