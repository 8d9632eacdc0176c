"""Forward pass of our Hiera against timm's, same weights, one run.

uv run python tests/bench/hiera_forward.py [--compile] [--batch-size 1 4] [--threads 2] [--device cuda --dtype bfloat16]
"""

import argparse

import timm
import torch
from side_by_side import compare, machine

import plm_core
from plm_core import weights


def pair(size: str) -> tuple[torch.nn.Module, torch.nn.Module]:
    torch.manual_seed(0)
    theirs = timm.create_model(f"hiera_{size}_224").eval()
    ours = plm_core.create_model(f"hiera_image_{size}_224").eval()
    for parameter in theirs.head.parameters():  # timm starts the classifier at zero: nothing to compare
        torch.nn.init.normal_(parameter)
    weights.load(ours, theirs.state_dict())
    return ours, theirs


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", nargs="+", default=["tiny", "base"])
    parser.add_argument("--batch-size", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--compile", action="store_true", help="Also torch.compile both.")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(machine("torch", "timm", "hiera"), f"{args.threads} threads, {args.dtype}")
    home = {"device": args.device, "dtype": getattr(torch, args.dtype)}
    for size in args.sizes:
        ours, theirs = (model.to(**home) for model in pair(size))
        for batch_size in args.batch_size:
            x = torch.rand(batch_size, 3, 224, 224).to(**home)
            worst = (ours(x) - theirs(x)).abs().max().item()
            title = f"{size}, batch {batch_size}"
            print(f"{title:<28} largest difference of logits {worst:.1e}")
            contenders = {"ours": lambda x=x, m=ours: m(x), "timm": lambda x=x, m=theirs: m(x)}
            if args.compile:
                both = {
                    "ours frozen": torch.compile(ours, fullgraph=True, options={"freezing": True}),  # weights constant
                    "ours compiled": torch.compile(ours),
                    "timm compiled": torch.compile(theirs),
                }
                if args.device != "cpu":
                    del both["ours frozen"]
                contenders = {name: lambda x=x, m=m: m(x) for name, m in both.items()} | contenders
            compare(title, contenders, rounds=args.rounds)


if __name__ == "__main__":
    main()
