"""Every public function of tome, one argument at a time hostile: an answer or one line, and the model as it was."""

import inspect
import random
from functools import partial

import numpy as np
import pytest
import timm
import torch
from torch import nn

import plm_core
import tome
from plm_core import blocks
from plm_core.errors import PlmError
from plm_core.tools import bench
from tome import pictures, vit

SIZE = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 5}
IMAGE = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
METRIC = torch.rand(1, 16, 4, generator=torch.Generator().manual_seed(1))
GROUP = torch.arange(16) // 2
HOSTILE = (
    *(None, True, False, -1, 0, 1, 3, 99, 0.3, -0.5, 2.0, float("nan"), float("inf"), 1j, "", "8", "channel", b"8"),
    *((), [], {}, (8,), (8, -1), (8, 2), [1, "2"], [3, 2, 1, 0, 9], range(4), {3}, object, len, nn.Linear),
    *(np.float32(0.5), np.int64(2), np.array([3, 1]), np.zeros((0, 3)), np.array("x"), np.ones((32, 32, 3))),
    *(torch.tensor(3), torch.tensor([1, 2, 3]), torch.rand(2, 3), torch.rand(0, 16, 4), torch.rand(1, 0, 4)),
    *(torch.full((1, 16, 4), float("nan")), METRIC.to_sparse(), METRIC.half(), METRIC.long(), METRIC.to("meta")),
    *(nn.Identity(), nn.Linear(2, 2), nn.ModuleList()),
)
MATCHING = {"metric": METRIC, "r": 4}
DIFFUSION_GRID = {"metric": METRIC, "w": 4, "h": 4, "sx": 2, "sy": 2, "r": 4}


def merging(model):
    return any(isinstance(module, blocks.Patched) for module in model.modules())


def cases():
    """Return (name, function, good arguments by name)."""
    model = timm.create_model("vit_tiny_patch16_224", **SIZE).eval()
    merged = tome.apply(timm.create_model("vit_tiny_patch16_224", **SIZE).eval(), r=2)
    pixels, traced = np.zeros((32, 32, 3), np.uint8), tome.trace(merged, IMAGE)
    ours = {"r": 2, "prop_attn": True, "unmerge": False, "positions": "destination"}
    return model, [
        ("apply", tome.apply, {"model": model, **ours}),
        ("apply flops", tome.apply, {"model": model, "flops": 0.5}),
        ("apply tokens", tome.apply, {"model": model, "tokens": 0.5}),
        ("remove", tome.remove, {"model": merged}),
        ("plm_core.apply", plm_core.apply, {"model": model, "name": "tome", "r": 2}),
        ("plm_core.remove", plm_core.remove, {"model": nn.Identity(), "name": None}),
        ("schedule_of", tome.schedule_of, {"model": merged}),
        ("settings_of", tome.settings_of, {"model": merged}),
        ("trace", tome.trace, {"model": merged}),
        ("bipartite", tome.bipartite_soft_matching, MATCHING),
        ("kth", tome.kth_bipartite_soft_matching, {"metric": METRIC, "k": 2}),
        ("random", tome.random_bipartite_soft_matching, MATCHING),
        ("random2d", tome.diffusion.bipartite_soft_matching_random2d, DIFFUSION_GRID),
        ("diffusion.apply", tome.diffusion.apply, {"model": model, "ratio": 0.5, "sx": 2, "seed": 0}),
        ("diffusion.remove", tome.diffusion.remove, {"model": model}),
        ("paint", pictures.paint, {"image": pixels, "group": GROUP, "patch": 8, "prefix": 0, "border": 1, "scale": 1}),
        ("side_by_side", pictures.side_by_side, {"image": pixels, "traced": traced, "after": [1], "scale": 1}),
        ("contact_sheet", pictures.contact_sheet, {"pictures": [pictures.paint(pixels, GROUP, 8)], "captions": ["a"]}),
        ("bench.compare", bench.compare, {"model": model, "stacks": [["tome:r=1"]], "x": IMAGE, "runs": 1}),
    ]


def test_the_public_functions_are_all_here():
    named = {name.partition(".")[0] for name, *_ in cases()[1]}
    public = {name for name in tome.__all__ if inspect.isfunction(getattr(tome, name))}
    assert public - named <= {"applied", "merge_source", "merge_wavg", "bipartite_soft_matching"} | {
        "kth_bipartite_soft_matching",
        "random_bipartite_soft_matching",
    }
    assert vit.apply is not tome.apply


@pytest.mark.filterwarnings("ignore")
@pytest.mark.trials(short=250, long=5000)
def test_one_argument_at_a_time(drill, trials):
    model, functions = cases()
    plain = model(IMAGE)
    every = [(*case, name, value) for case in functions for name in case[2] for value in HOSTILE]
    for title, function, good, name, value in random.Random(trials).sample(every, min(trials, len(every))):
        case = f"{title}({name}={str(value)[:30]!r})"
        answer = drill.attempt(case, partial(function, **{**good, name: value}))
        if isinstance(answer, PlmError) and good.get("model") is model:
            drill.expect(case, not merging(model), "refused, and yet applied")
        if merging(model):
            plm_core.remove(model)
        if title == "remove" and value is good.get("model"):
            tome.apply(value, r=2)
    drill.expect("afterwards", torch.equal(model(IMAGE), plain), "the model answers otherwise")
