"""Hydra against fused softmax attention: the attention alone, and a whole layer with the same projections.

uv run python tests/bench/hydra_attention.py [--tokens 197 1025 2048 4096 8100 100000] [--dim 768] [--heads 12]
    [--device cuda] [--dtype bfloat16] [--rounds 7] [--compile]
"""

import argparse
from functools import partial

import torch
from side_by_side import compare, machine
from timm.layers import Attention

import hydra_attn
from hydra_attn.scaling import softmax
from plm_core.tools.memory import memory_of

MOST_SOFTMAX = 20_000
"""With more tokens only Hydra is measured, since the softmax takes minutes."""


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, nargs="+", default=[197, 1025, 2048, 4096, 8100, 100_000])
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    options = {"device": args.device, "dtype": getattr(torch, args.dtype)}
    print(machine("torch", "timm", "hydra-attn"), f"{args.threads} threads, D={args.dim}")
    layers = {
        "hydra": hydra_attn.HydraAttention(args.dim, args.heads, qkv_bias=True, **options).eval(),
        "softmax": Attention(args.dim, args.heads, qkv_bias=True, **options).eval(),
    }
    parts = {"hydra": hydra_attn.hydra, "softmax": partial(softmax, num_heads=args.heads)}
    if args.compile:
        layers = {"hydra, compiled": torch.compile(layers["hydra"])} | layers
        parts = {"hydra, compiled": torch.compile(parts["hydra"])} | parts
    for number in args.tokens:
        q, k, v = torch.randn(3, 1, number, args.dim, **options)
        if number > MOST_SOFTMAX:
            parts.pop("softmax", None)
            layers.pop("softmax", None)
        compare(f"T={number}, attention", {n: partial(part, q, k, v) for n, part in parts.items()}, args.rounds)
        compare(f"T={number}, layer", {n: partial(layer, q) for n, layer in layers.items()}, args.rounds)
        for name, part in parts.items():
            most = (memory_of(torch.nn.Identity(), q, partial(part, q, k, v)) or 0) - q.nbytes
            print(f"T={number}, attention: {name} needs {most / q.nbytes:.2f} tensors of that size, with its output")


if __name__ == "__main__":
    main()
