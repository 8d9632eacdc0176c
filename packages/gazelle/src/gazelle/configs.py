"""The released models and their published facts (arXiv 2412.09586, tables 3 to 5)."""

from __future__ import annotations

from dataclasses import dataclass

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
PAPER = "arXiv 2412.09586"
IMAGE_SIZE = 448


@dataclass(frozen=True)
class Size:
    """A size of the backbone.

    Attributes:
        backbone: The name of timm's model.
        params: Number of parameters of the whole model without the in/out head.
    """

    backbone: str
    params: int


INOUT_PARAMS = 33_281
"""Number of parameters of the in/out head and its token."""

SIZES = {
    "vitb14": Size("vit_base_patch14_dinov2", 89_406_464),
    "vitl14": Size("vit_large_patch14_dinov2", 307_259_904),
}
KINDS = {"": False, "_inout": True, "_childplay": True}
"""The kinds of released models by the end of their names, and whether they have an in/out head.

They were trained on GazeFollow, then on VideoAttentionTarget, or then on ChildPlay.
"""
RELEASES = {
    "gazelle_dinov2_vitb14": "gazelle_dinov2_vitb14.pt",
    "gazelle_dinov2_vitl14": "gazelle_dinov2_vitl14.pt",
    "gazelle_dinov2_vitb14_inout": "gazelle_dinov2_vitb14_inout.pt",
    "gazelle_dinov2_vitl14_inout": "gazelle_dinov2_vitl14_inout.pt",
    "gazelle_dinov2_vitb14_childplay": "gazelle_dinov2_vitlb14_inout_childplay.pt",
    "gazelle_dinov2_vitl14_childplay": "gazelle_dinov2_vitl14_inout_childplay.pt",
}
"""The file of each model in the original's release v1.0.0 on GitHub. They hold the decoder alone, as pickles."""

MICRO_SIZE = 64
MICRO = {"backbone": "hiera_micro_shapes", "inout": True, "dim": 64, "num_layers": 3, "img_size": MICRO_SIZE}
"""Our micro model for the world of shapes."""
