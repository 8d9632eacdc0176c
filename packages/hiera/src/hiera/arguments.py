"""The ranges of the constructors' arguments, by name: an argument means the same in every model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from plm_core.utils.ranges import MOST, Ranges, rate, real, whole


def _each(value: Any, least: int = 1) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(whole(item, least) for item in value)


def _sizes(value: Any) -> bool:
    return _each(value) and len(value) > 0


_RANGES = (
    (
        whole,
        f"a whole number from 1 to {MOST}",
        "in_chans embed_dim num_heads depth patch_size decoder_embed_dim decoder_depth decoder_num_heads d_model "
        "channels rpn_convs rpn_samples box_size box_samples mask_size detections",
    ),
    (lambda value: whole(value, 0), f"a whole number from 0 to {MOST}", "q_pool scalp num_classes"),
    (
        _sizes,
        "one or more whole numbers from 1 on",
        "input_size stages q_stride mask_unit_size patch_kernel patch_stride global_pos_size window_spec "
        "window_pos_embed_bkg_spatial_size backbone_channel_list box_convs box_fc mask_convs rpn_before_nms "
        "rpn_after_nms",
    ),
    (lambda value: _each(value, 0), "whole numbers from 0 on", "patch_padding global_att_blocks"),
    (
        lambda value: isinstance(value, list | tuple) and all(item in (True, False) for item in value),
        "a list of True and False",
        "mask_unit_attn",
    ),
    (lambda value: value is None or _each(value, 0), "None or whole numbers from 0 on", "levels"),
    (
        lambda value: value is None or whole(value) or _sizes(value),
        "a whole number from 1 on, or one for each dimension,",
        "img_size pretrain_grid",
    ),
    (lambda value: value is None or whole(value), "None or a whole number from 1 on", "rel_pos_img_size"),
    (rate, "a number from 0 to less than 1", "drop_path_rate head_dropout"),
    (lambda value: real(value) and 0 < value <= 1024, "a number above 0 and up to 1024", "dim_mul head_mul mlp_ratio"),
    (lambda value: real(value) and value > 0, "a finite number above 0", "canonical"),
    (
        lambda value: isinstance(value, Sequence) and len(value) > 0 and all(real(item) and item > 0 for item in value),
        "one or more finite numbers above 0",
        "anchors ratios rpn_iou",
    ),
    (
        lambda value: real(value) and 0 <= value <= 1,
        "a number from 0 to 1",
        "rpn_positive rpn_nms box_positive score_threshold nms",
    ),
    (real, "a finite number", "head_init_scale"),
    (lambda value: value is None or real(value), "None or a finite number", "init_values"),
    (lambda value: value in ("avg", "max", "avgmax", ""), "'avg', 'max', 'avgmax' or ''", "global_pool"),
    (lambda value: value in ("nearest", "bilinear", "bicubic"), "'nearest', 'bilinear' or 'bicubic'", "interp"),
    (lambda value: value in ("sum", "avg"), "'sum' or 'avg'", "fuse"),
)
check_arguments = Ranges(_RANGES).check
