"""Token Merging against the same timm ViT without it, which runs on fused attention; one run.

uv run python tests/bench/tome_vit.py [--models base large] [--how mask channel] [--rounds 9] [--threads 2]
"""

import argparse
import copy

import timm
import torch
from side_by_side import compare, machine

import tome

# name of the model, batch, and the schedules with the speed that is to be reached, in times of the unpatched model's
CASES = {
    "base": ("vit_base_patch16_224", 4, {0: 0.99, 8: 1.35, 13: 1.70, 16: 2.0, (16, -1): 2.5}),
    "large": ("vit_large_patch16_384", 1, {23: 1.95}),
}


def linears(model, x):
    """A call of nothing but the model's linear layers, on the shapes that a forward pass gives them."""
    calls = []
    hooks = [
        layer.register_forward_pre_hook(lambda layer, args: calls.append((layer, torch.rand_like(args[0]))))
        for layer in model.modules()
        if isinstance(layer, torch.nn.Linear)
    ]
    model(x)
    for hook in hooks:
        hook.remove()
    return lambda: [layer(given) for layer, given in calls]


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--how", nargs="+", default=["mask"], choices=["mask", "channel"])
    parser.add_argument(
        "--linears", action="store_true", help="Time the linear layers alone, which merging cannot beat."
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(machine("torch", "timm", "tome"), f"{args.threads} threads, fp32")
    for case in args.models:
        name, batch, goals = CASES[case]
        torch.manual_seed(0)
        plain = timm.create_model(name).eval()
        x = torch.rand(batch, 3, *plain.patch_embed.img_size)
        contenders = {}
        for r in goals:
            for how in args.how if r else args.how[:1]:
                merging = tome.apply(copy.deepcopy(plain), r, prop_attn=how)
                contenders[f"r={r} {how}"] = lambda m=merging, x=x: m(x)
        contenders["unpatched"] = lambda m=plain, x=x: m(x)
        if args.linears:
            contenders = {
                f"{name} linears": linears(tome.apply(copy.deepcopy(plain), r), x)
                for name, r in {f"r={r}": r for r in goals if r}.items()
            }
            contenders["unpatched linears"] = linears(plain, x)
        print("goals:", ", ".join(f"r={r}: {1 / goal:.3f}x of the time" for r, goal in goals.items()))
        compare(f"{name}, batch {batch}", contenders, rounds=args.rounds)


if __name__ == "__main__":
    main()
