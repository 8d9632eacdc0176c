"""The sizes of the papers' models and of our micro models, as constructor keywords, and the published facts about them.

This module holds data only and imports neither torch nor timm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Config = dict[str, Any]

PAPER = "arXiv 2306.00989"


@dataclass(frozen=True, kw_only=True)
class Size:
    """A size of the Hiera paper.

    Attributes:
        config: Keyword arguments of `hiera.Hiera` (table 2).
        image_params: Number of parameters of the image model with 1000 classes.
        image_top1: Top-1 accuracy on ImageNet-1k in %, after MAE pretraining and finetuning (table 2).
        video_params: Number of parameters of the video model with 400 classes.
        video_top1: Top-1 accuracy on Kinetics-400 in %, over 3 x 5 views; None where the paper has no video model.
    """

    config: Config
    image_params: int
    image_top1: float
    video_params: int
    video_top1: float | None


SIZES: dict[str, Size] = {
    "tiny": Size(
        config={"embed_dim": 96, "num_heads": 1, "stages": (1, 2, 7, 2)},
        image_params=27_910_216,
        image_top1=82.8,
        video_params=27_477_808,
        video_top1=None,
    ),
    "small": Size(
        config={"embed_dim": 96, "num_heads": 1, "stages": (1, 2, 11, 2)},
        image_params=35_008_072,
        image_top1=83.8,
        video_params=34_575_664,
        video_top1=None,
    ),
    "base": Size(
        config={"embed_dim": 96, "num_heads": 1, "stages": (2, 3, 16, 3)},
        image_params=51_524_968,
        image_top1=84.5,
        video_params=51_092_560,
        video_top1=84.0,
    ),
    "base_plus": Size(
        config={"embed_dim": 112, "num_heads": 2, "stages": (2, 3, 16, 3)},
        image_params=69_896_616,
        image_top1=85.2,
        video_params=69_392_240,
        video_top1=85.0,
    ),
    "large": Size(
        config={"embed_dim": 144, "num_heads": 2, "stages": (2, 6, 36, 4)},
        image_params=213_739_912,
        image_top1=86.1,
        video_params=213_091_600,
        video_top1=87.3,
    ),
    "huge": Size(
        config={"embed_dim": 256, "num_heads": 4, "stages": (2, 6, 36, 4)},
        image_params=672_779_752,
        image_top1=86.9,
        video_params=671_627_664,
        video_top1=87.8,
    ),
}
IMAGE: dict[str, Config] = {name: size.config for name, size in SIZES.items()}

# The sizes for which the paper also has a video model.
VIDEO_SIZES = tuple(name for name, size in SIZES.items() if size.video_top1 is not None)

# Keywords that every video model adds to those of its size (section 4.2). A clip has 16 frames; patches cover time
# with stride 2, and time is never pooled.
VIDEO: Config = {
    "input_size": (16, 224, 224),
    "num_classes": 400,
    "q_stride": (1, 2, 2),
    "mask_unit_size": (1, 8, 8),
    "patch_kernel": (3, 7, 7),
    "patch_stride": (2, 4, 4),
    "patch_padding": (1, 3, 3),
    "sep_pos_embed": True,
}

# Pixel mean and standard deviation that the inputs of the papers' detectors were normalised with. Their code states
# them on a scale of 0 to 255.
DETECTION_MEAN = (123.675 / 255, 116.28 / 255, 103.53 / 255)
DETECTION_STD = (58.395 / 255, 57.12 / 255, 57.375 / 255)

# SAM 2's image encoders (SAM 2, section 8) have Hiera's sizes, with windows that may differ from mask units.
HIERADET: dict[str, Config] = {
    "tiny": {**IMAGE["tiny"], "window_pos_embed_bkg_spatial_size": (7, 7), "global_att_blocks": (5, 7, 9)},
    "small": {**IMAGE["small"], "window_pos_embed_bkg_spatial_size": (7, 7), "global_att_blocks": (7, 10, 13)},
    "base_plus": {
        **IMAGE["base_plus"],
        "window_pos_embed_bkg_spatial_size": (14, 14),
        "global_att_blocks": (12, 16, 20),
    },
    "large": {
        **IMAGE["large"],
        "window_pos_embed_bkg_spatial_size": (7, 7),
        "window_spec": (8, 4, 16, 8),
        "global_att_blocks": (23, 33, 43),
    },
}

# --- micro models ---------------------------------------------------------------------------------------------------

# Mask units are 16 px: a 32 px image has 2 x 2 of them, so local and global attention differ.
MICRO_DIGITS: Config = {
    "embed_dim": 24,
    "num_heads": 1,
    "stages": (1, 2, 1),
    "q_pool": 2,
    "mask_unit_size": (4, 4),
    "mask_unit_attn": (True, False, False),
}

# The digits model with Absolute Win: 2 x 2 mask units and as many global positions. Patches do not overlap, so the
# tokens of a window are told apart by the embedding only.
MICRO_ABSWIN: Config = {
    **MICRO_DIGITS,
    "patch_kernel": (4, 4),
    "patch_padding": (0, 0),
    "input_size": (32, 32),
    "abs_win_pos_embed": True,
    "global_pos_size": (2, 2),
}

# A scene of 48 px has 3 x 3 mask units. With Absolute Win, any multiple of 16 px works.
MICRO_SHAPES: Config = {
    **MICRO_DIGITS,
    "input_size": (48, 48),
    "abs_win_pos_embed": True,
    "global_pos_size": (3, 3),
}

# Pretraining teaches a shape only if the rest of it can be predicted from a visible part, so mask units are 8 px, half
# of an object's side.
MICRO_GREY: Config = {
    "input_size": (32, 32),
    "embed_dim": 32,
    "num_heads": 1,
    "stages": (1, 3),
    "q_pool": 1,
    "mask_unit_size": (2, 2),
    "mask_unit_attn": (True, False),
    "abs_win_pos_embed": True,
    "global_pos_size": (4, 4),
}
MICRO_GREY_MAE: Config = {"q_pool": 0, "decoder_embed_dim": 48, "decoder_depth": 1, "decoder_num_heads": 3}

# A clip of 8 frames of 32 px has 4 x 2 x 2 mask units.
MICRO_MOTIONS: Config = {
    **MICRO_DIGITS,
    "input_size": (8, 32, 32),
    "q_stride": (1, 2, 2),
    "mask_unit_size": (1, 4, 4),
    "patch_kernel": (3, 7, 7),
    "patch_stride": (2, 4, 4),
    "patch_padding": (1, 3, 3),
    "sep_pos_embed": True,
}

# Keywords that masked pretraining adds to a micro model's. As in the larger models, the last stage transition does not
# pool.
MICRO_MAE: Config = {"q_pool": 1, "decoder_embed_dim": 64, "decoder_depth": 2, "decoder_num_heads": 4}

# A trunk for scenes of 96 px with objects of 10 to 45 px. Together with its detector it has 432,189 parameters.
HIERADET["micro"] = {
    "embed_dim": 32,
    "num_heads": 2,
    "stages": (1, 1, 3),
    "dim_mul": 1.5,
    "head_mul": 1.5,
    "mlp_ratio": 2.0,
    "q_pool": 2,
    "window_spec": (8, 4, 6),
    "window_pos_embed_bkg_spatial_size": (6, 6),
    "global_att_blocks": (3, 4),
}
MICRO_DETECTOR: Config = {
    "img_size": 96,
    "channels": 40,
    "anchors": (10, 20, 38, 64),
    "canonical": 56,
    "rpn_samples": 128,
    "rpn_before_nms": (200, 200),
    "rpn_after_nms": (100, 50),
    "box_convs": (40, 40),
    "box_fc": (64,),
    "box_samples": 64,
    "mask_convs": (40, 40),
}
