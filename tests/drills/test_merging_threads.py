"""Threads that call and trace one model that merges, while each applies and removes merging on models of its own."""

import random
from concurrent.futures import ThreadPoolExecutor

import pytest
import timm
import torch

import tome

SIZE = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 5}
IMAGES = torch.rand(4, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
R = (0, 2, 4)


def make():
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", **SIZE).eval()


@pytest.mark.trials(short=60, long=6000)
@torch.no_grad()
def test_calls_traces_and_changes(drill, trials):
    shared, plain = tome.apply(make(), r=4), make()
    answers = {r: [tome.apply(make(), r=r)(x) for x in IMAGES] for r in R}
    unmerged = [plain(x) for x in IMAGES]
    before = tome.apply(make(), r=4)
    traces = [tome.trace(before, x) for x in IMAGES]

    def call(choose, which):
        return torch.allclose(shared(IMAGES[which]), answers[4][which], atol=1e-5)

    def trace(choose, which):
        traced = tome.trace(shared, IMAGES[which])
        return torch.equal(traced.groups[-1], traces[which].groups[-1]) and traced.tokens == (13, 9, 5)

    def change(choose, which):
        own, r = make_own(), choose.choice(R)
        merged = torch.allclose(tome.apply(own, r=r)(IMAGES[which]), answers[r][which], atol=1e-5)
        return merged and torch.allclose(tome.remove(own)(IMAGES[which]), unmerged[which], atol=1e-5)

    def make_own():
        own = timm.create_model("vit_tiny_patch16_224", **SIZE).eval()
        own.load_state_dict(plain.state_dict())
        return own

    def work(trial):
        with torch.no_grad():  # each thread has its own
            choose = random.Random(trial)
            action = choose.choice((call, call, trace, change))
            return action.__name__, drill_safe(lambda: action(choose, choose.randrange(len(IMAGES))))

    def drill_safe(action):
        try:
            return action()
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    with ThreadPoolExecutor(4) as pool:
        for name, right in pool.map(work, range(trials)):
            drill.expect(name, right is True, "another answer" if right is False else right)
    drill.expect("afterwards", not any(block._forward_hooks for block in shared.blocks), "a trace left its hooks")
