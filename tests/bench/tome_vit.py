"""A timm ViT with Token Merging against the same ViT without it, which uses fused attention, in one run.

uv run python tests/bench/tome_vit.py [--models base large] [--how mask channel] [--rounds 9] [--threads 2]
uv run python tests/bench/tome_vit.py --models large_512 huge_518 --device cuda --dtype bfloat16 [--compile]
uv run python tests/bench/tome_vit.py --models base_busy --threads 2 --busy

With --busy, another process computes on one of the cores all the time (Linux), as on a machine that is shared.
"""

import argparse
import copy
import os
import subprocess
import sys
from contextlib import contextmanager

import timm
import torch
from side_by_side import compare, machine

import tome
from plm_core.testing import count_regions

# model, image size, batch size, and for each r the goal: its speed relative to the unpatched model
CASES = {
    "base": ("vit_base_patch16_224", 224, 4, {0: 0.99, 8: 1.35, 13: 1.70, 16: 2.0, (16, -1): 2.5}),
    "base_busy": ("vit_base_patch16_224", 224, 4, {8: 1.2, 13: 1.5, 16: 1.7}),
    "large": ("vit_large_patch16_384", 384, 1, {23: 1.95}),
    "large_512": ("vit_large_patch16_224", 512, 32, {0: 0.99, 40: 2.0}),
    "huge_518": ("vit_huge_patch14_224", 518, 32, {0: 0.99, 40: 2.0}),
}


def linears(model, x):
    """Return a function that calls only the model's linear layers, with inputs of the shapes in a forward pass."""
    calls = []
    hooks = [
        layer.register_forward_pre_hook(lambda layer, args: calls.append((layer, torch.rand_like(args[0]))))
        for layer in model.modules()
        if isinstance(layer, torch.nn.Linear)
    ]
    model(x)
    for hook in hooks:
        hook.remove()
    return lambda: [layer(x) for layer, x in calls]


@contextmanager
def neighbour(busy):
    """Let another process compute on the last core, if asked to."""
    if not busy:
        yield
        return
    core = max(os.sched_getaffinity(0))
    process = subprocess.Popen(
        [sys.executable, "-c", f"import os; os.sched_setaffinity(0, [{core}])\nwhile True: pass"]
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()


def print_regions(models, x):
    """Print how many parallel regions each model opens, which is what waits for a busy neighbour."""
    counts = {}
    for name, model in models.items():
        with count_regions() as regions:
            model(x)
        counts[name] = regions.total
    print("parallel regions:", ", ".join(f"{name}: {count}" for name, count in counts.items()))


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", nargs="+", default=["base", "large"], choices=list(CASES))
    parser.add_argument("--how", nargs="+", default=["mask"], choices=["mask", "channel", "none"])
    parser.add_argument(
        "--linears", action="store_true", help="Time only the linear layers, which merging cannot beat."
    )
    parser.add_argument("--compile", action="store_true", help="Compile all models.")
    parser.add_argument("--busy", action="store_true", help="Let another process compute on one core meanwhile.")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(machine("torch", "timm", "tome"), f"{args.threads} threads, {args.dtype}")
    home = {"device": args.device, "dtype": getattr(torch, args.dtype)}
    for case in args.models:
        name, size, batch_size, goals = CASES[case]
        torch.manual_seed(0)
        plain = timm.create_model(name, img_size=size).eval().to(**home)
        x = torch.rand(batch_size, 3, size, size).to(**home)
        models = {}
        for r in goals:
            for how in args.how if r else args.how[:1]:
                models[f"r={r} {how}"] = tome.apply(copy.deepcopy(plain), r, prop_attn=how != "none" and how)
        models["unpatched"] = plain
        if args.compile:
            models = {name: torch.compile(model, fullgraph=True) for name, model in models.items()}
        contenders = {name: lambda m=model, x=x: m(x) for name, model in models.items()}
        if args.linears:
            contenders = {
                f"{name} linears": linears(tome.apply(copy.deepcopy(plain), r), x)
                for name, r in {f"r={r}": r for r in goals if r}.items()
            }
            contenders["unpatched linears"] = linears(plain, x)
        print("goals:", ", ".join(f"r={r}: {1 / goal:.3f}x of the time" for r, goal in goals.items()))
        if args.busy:
            print_regions(models, x)
        with neighbour(args.busy):
            compare(f"{name}, {size} px, batch size {batch_size}", contenders, rounds=args.rounds)


if __name__ == "__main__":
    main()
