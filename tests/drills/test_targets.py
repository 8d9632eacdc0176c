"""Hostile targets and images for a detector: each is refused in one line, or trains with losses that are numbers."""

import random

import pytest
import torch

from hiera.detection import detector
from hiera.hieradet import HieraDet
from plm_core.errors import PlmError

SIDE = 64


def small(cascade):
    torch.manual_seed(0)
    trunk = HieraDet(embed_dim=8, stages=(1, 1, 1, 1), global_att_blocks=())
    parts = {"channels": 8, "box_convs": (8,), "box_fc": (16,), "mask_convs": (8,), "box_samples": 8, "rpn_samples": 16}
    sizes = {"img_size": SIDE, "anchors": (8, 16, 32, 48, 64), "rpn_before_nms": (20, 20), "rpn_after_nms": (8, 8)}
    return detector(trunk, 3, cascade=cascade, **parts, **sizes).train()


def scene(rng):
    """Draw an image with one to three objects."""
    n = rng.randint(1, 3)
    corners = torch.tensor([[rng.randint(0, 40), rng.randint(0, 40)] for _ in range(n)])
    boxes = torch.cat([corners, corners + torch.tensor([[rng.randint(4, 24), rng.randint(4, 24)]])], 1).float()
    masks = torch.zeros(n, SIDE, SIDE, dtype=torch.uint8)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y0:y1, x0:x1] = 1
    labels = torch.tensor([rng.randint(1, 3) for _ in range(n)])
    return torch.rand(3, SIDE, SIDE), {"boxes": boxes, "labels": labels, "masks": masks}


def one_value(rng, tensor, value):
    changed = tensor.clone()
    if changed.numel():
        changed.view(-1)[rng.randrange(changed.numel())] = value
    return changed


ODD = [None, 3, "x", [], {}, b"", float("nan"), torch.zeros(()), torch.zeros(0), torch.zeros(2, 2, 2, 2)]
CHANGES = [
    *(lambda rng, t, odd=odd: odd for odd in ODD),
    *(
        lambda rng, t, dtype=d: t.to(dtype)
        for d in (torch.int32, torch.uint8, torch.bool, torch.float64, torch.float16)
    ),
    *(
        lambda rng, t, value=v: one_value(rng, t.float(), value)
        for v in (float("nan"), float("inf"), -1e9, 1e30, 1e-30)
    ),
    *(lambda rng, t, value=v: one_value(rng, t, value) for v in (0, 1, 2, 3, 4, 64, 127)),
    *(lambda rng, t, factor=f: t * factor for f in (0, 2, 255, -1, 1 / SIDE, 1 / 255)),
    lambda rng, t: t[:-1],
    lambda rng, t: torch.cat([t, t]),
    lambda rng, t: t.flip(-1),
    lambda rng, t: t[..., None],
    lambda rng, t: t.T if t.ndim == 2 else t[..., :1],
    lambda rng, t: t.to("meta"),
    lambda rng, t: t.to_sparse(),
    lambda rng, t: t.to(torch.complex64),
    lambda rng, t: t.float().requires_grad_(),
    lambda rng, t: t.expand(2, *t.shape),
    lambda rng, t: t.numpy(),
    lambda rng, t: t.tolist(),
]


def hostile(rng):
    """Return the name of a case, and images and targets of which one part is hostile."""
    pairs = [scene(rng) for _ in range(rng.randint(1, 2))]
    images, targets = [image for image, _ in pairs], [dict(target) for _, target in pairs]
    where, number = rng.choice(("image", "boxes", "labels", "masks", "whole")), rng.randrange(len(CHANGES))
    if where == "image":
        images[-1] = CHANGES[number](rng, images[-1])
    elif where == "whole":
        wholes = [(images, ODD[number % len(ODD)]), (ODD[number % len(ODD)], targets), (images, targets[:-1])]
        wholes += [(images, [ODD[number % len(ODD)]] * len(images)), (images, [{}] * len(images)), ([], [])]
        images, targets = wholes[number % len(wholes)]
    else:
        targets[-1][where] = CHANGES[number](rng, targets[-1][where])
    return f"{where}, change {number}", images, targets


@pytest.mark.timeout(1800)
@pytest.mark.trials(short=40, long=2000)
def test_of_detection_are_refused_or_trained(drill, trials):
    rng = random.Random(0)
    torch.manual_seed(0)
    models = [small(cascade) for cascade in (False, True)]
    for trial in range(trials):
        case, images, targets = hostile(rng)
        losses = drill.attempt(case, lambda: models[trial % 2](images, targets))  # noqa: B023
        if isinstance(losses, dict):
            values = torch.stack([loss.detach().float() for loss in losses.values()])
            drill.expect(case, bool(values.isfinite().all() and (values >= 0).all()), f"losses {values.tolist()}")
        else:
            drill.expect(case, isinstance(losses, PlmError), f"answered {type(losses).__name__}")
