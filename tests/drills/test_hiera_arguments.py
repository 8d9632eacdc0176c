"""Constructors of hiera and `create_model`, one hostile argument at a time: refused in one line, or a whole model."""

import inspect
import math
import random

import pytest
import torch

import hiera
import plm_core
from hiera.detection import micro_detector
from plm_core.errors import PlmError

TINY = {"embed_dim": 8, "stages": (1, 1, 1), "mask_unit_size": (4, 4), "mask_unit_attn": (True, False, False)}
TINY |= {"q_pool": 2, "input_size": (32, 32)}
MAKERS = {
    "Hiera": (hiera.Hiera, {**TINY, "num_classes": 3}),
    "Hiera of videos": (
        hiera.Hiera,
        {
            **TINY,
            "num_classes": 3,
            "input_size": (4, 32, 32),
            "q_stride": (1, 2, 2),
            "mask_unit_size": (1, 4, 4),
            "patch_kernel": (3, 7, 7),
            "patch_stride": (2, 4, 4),
            "patch_padding": (1, 3, 3),
            "sep_pos_embed": True,
        },
    ),
    "Hiera with Absolute Win": (hiera.Hiera, {**TINY, "abs_win_pos_embed": True, "init_values": 0.1}),
    "MaskedAutoencoderHiera": (
        hiera.MaskedAutoencoderHiera,
        {**TINY, "q_pool": 1, "decoder_depth": 1, "decoder_embed_dim": 8, "decoder_num_heads": 2},
    ),
    "HieraDet": (hiera.HieraDet, {"embed_dim": 8, "stages": (1, 1, 1, 1), "global_att_blocks": ()}),
    "ViTDet": (
        hiera.ViTDet,
        {"img_size": 32, "patch_size": 8, "embed_dim": 8, "depth": 2, "num_heads": 2, "pretrain_grid": 2},
    ),
    "FpnNeck": (hiera.FpnNeck, {"d_model": 8, "backbone_channel_list": (16, 8)}),
    "micro_detector": (micro_detector, {}),
    "hiera_micro_digits": (lambda **kwargs: plm_core.create_model("hiera_micro_digits", **kwargs), {}),
}
# Parameters of functions and dtypes, which are not checked, and keywords that the tables above do not name.
SKIPPED = ("self", "norm_layer", "device", "dtype", "kwargs", "dd", "settings", "trunk")
MORE = {
    "MaskedAutoencoderHiera": ("embed_dim", "num_heads", "stages", "input_size", "drop_path_rate", "dim_mul"),
    "micro_detector": ("num_classes", "img_size", "in_chans", "drop_path_rate", "channels", "anchors", "nms", "box_fc"),
    "hiera_micro_digits": ("num_classes", "in_chans", "embed_dim", "global_pool", "drop_rate", "drop_path_rate"),
}
ODD = [-1, 0, 0.3, -0.5, 1e9, 10**12, math.nan, math.inf, -math.inf, "x", "", (), (0,), (-1, 2), (2.5, 2), (1, 2, 3)]
ODD += [True, None, [], {}, b"x", (10**9, 10**9), ("a", "b"), (math.nan, 1.0)]


def cases():
    """Return every (maker, parameter) whose argument is changed."""
    for name, (make, _) in MAKERS.items():
        own = [key for key in inspect.signature(make).parameters if key not in SKIPPED]
        for key in dict.fromkeys([*own, *MORE.get(name, ())]):
            yield name, key


CASES = list(cases())


@pytest.mark.timeout(1800)
@pytest.mark.trials(short=150, long=len(CASES) * len(ODD))
def test_are_refused_or_make_a_whole_model(drill, trials):
    every = [(name, key, odd) for name, key in CASES for odd in ODD]
    for name, key, odd in random.Random(0).sample(every, min(trials, len(every))):
        make, kwargs = MAKERS[name]
        case = f"{name}({key}={odd!r})"
        model = drill.attempt(case, lambda: make(**{**kwargs, key: odd}))  # noqa: B023
        if isinstance(model, torch.nn.Module):
            whole = all(bool(p.isfinite().all()) for p in model.parameters())
            drill.expect(case, whole, "parameters that are not finite")
        else:
            drill.expect(case, isinstance(model, PlmError), f"answered {type(model).__name__}")
