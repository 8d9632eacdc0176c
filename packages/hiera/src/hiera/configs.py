"""The paper's model sizes (Hiera paper, table 2), as constructor keywords. Data only: imports nothing."""

from __future__ import annotations

from typing import Any

Config = dict[str, Any]

IMAGE: dict[str, Config] = {
    "tiny": {"embed_dim": 96, "num_heads": 1, "stages": (1, 2, 7, 2)},
    "small": {"embed_dim": 96, "num_heads": 1, "stages": (1, 2, 11, 2)},
    "base": {"embed_dim": 96, "num_heads": 1, "stages": (2, 3, 16, 3)},
    "base_plus": {"embed_dim": 112, "num_heads": 2, "stages": (2, 3, 16, 3)},
    "large": {"embed_dim": 144, "num_heads": 2, "stages": (2, 6, 36, 4)},
    "huge": {"embed_dim": 256, "num_heads": 4, "stages": (2, 6, 36, 4)},
}

# Sixteen-pixel mask units: a 32 px image is 2 x 2 of them, so that local and global attention differ.
MICRO_DIGITS: Config = {
    "embed_dim": 24,
    "num_heads": 1,
    "stages": (1, 2, 1),
    "q_pool": 2,
    "mask_unit_size": (4, 4),
    "mask_unit_attn": (True, False, False),
}

# The same with Absolute Win: two by two mask units and as many global positions. Patches do not overlap, so that
# nothing but the embedding tells the tokens of a window apart.
MICRO_ABSWIN: Config = {
    **MICRO_DIGITS,
    "patch_kernel": (4, 4),
    "patch_padding": (0, 0),
    "input_size": (32, 32),
    "abs_win_pos_embed": True,
    "global_pos_size": (2, 2),
}

# A 48 px scene is 3 x 3 mask units; with Absolute Win any multiple of 16 will do.
MICRO_SHAPES: Config = {
    **MICRO_DIGITS,
    "input_size": (48, 48),
    "abs_win_pos_embed": True,
    "global_pos_size": (3, 3),
}

# For pretraining to teach a shape, part of it must tell the rest: mask units of 8 px, half of an object's side
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

# Eight frames of 32 px: 4 x 2 x 2 mask units
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

# What masked pretraining adds to a micro model; as for the larger ones, the last transition does not pool.
MICRO_MAE: Config = {"q_pool": 1, "decoder_embed_dim": 64, "decoder_depth": 2, "decoder_num_heads": 4}

# What every video model adds to its size (paper, section 4.2): 16 frames, time is patched by 2 and never pooled.
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

# SAM 2's image encoders (SAM 2, section 8): Hiera's sizes, with windows that need not be mask units.
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

# For scenes of 96 px with objects of 10 to 45: with its detector 432,189 parameters.
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
