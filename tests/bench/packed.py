"""Packed linear layers against timm, eager and compiled with frozen weights, in one run on the CPU.

uv run python tests/bench/packed.py [--cases vit_b vit_s] [--rounds 9] [--threads 2] [--merge 8 16,-1] [--bf16]
    [--compile] [--tune]

Ratios are those of the same round. The rate is that of all products and convolutions of timm's model over the time of
the packed model. The best rate is that of one large product with a packed weight.
"""

import argparse
import copy
import time
from collections.abc import Callable

import timm
import torch
from side_by_side import compare, machine
from torch.utils.flop_counter import FlopCounterMode

import hiera  # noqa: F401  (its models are known to timm then)
import plm_core
from plm_core import packing
from plm_core.packing import operators

# model, batch size, goal for the packed model in shares of timm's time
CASES = {
    "vit_b": ("vit_base_patch16_224", 4, 0.52),
    "vit_b_1": ("vit_base_patch16_224", 1, 0.52),
    "vit_s": ("vit_small_patch16_224", 4, 0.52),
    "vit_l": ("vit_large_patch16_224", 1, 0.52),
    "vit_l_384": ("vit_large_patch16_384", 1, 0.52),
    "pe_b": ("vit_pe_core_base_patch16_224", 4, 0.55),
    "convnext_t": ("convnext_tiny", 2, 0.55),
    "swin_t": ("swin_tiny_patch4_window7_224", 4, 0.55),
    "mixer_b": ("mixer_b16_224", 4, 0.55),
    "hiera_t_1": ("hiera_tiny_224", 1, 0.48),
    "hiera_t": ("hiera_tiny_224", 4, 0.48),
    "hiera_b_1": ("hiera_base_224", 1, 0.48),
    "hiera_b": ("hiera_base_224", 4, 0.48),
    "resnet50": ("resnet50", 4, 1.0),
    "efficientnet_b0": ("efficientnet_b0", 4, 1.0),
    "mobilenetv3": ("mobilenetv3_large_100", 4, 1.0),
    "regnet": ("regnety_016", 4, 1.0),
}
OURS = {"hiera_tiny_224": "hiera_image_tiny_224", "hiera_base_224": "hiera_image_base_224"}


def autocast(model: torch.nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a function that calls a model in bfloat16."""

    def call(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model(x)

    return call


def steps(text: str) -> int | tuple[int, int]:
    """Return the option ``r`` of Token Merging that a text such as 8 or 16,-1 stands for."""
    first, _, inflect = text.partition(",")
    return (int(first), int(inflect)) if inflect else int(first)


def best_rate(rounds: int = 30) -> float:
    """Return the operations per second of a large product with a packed weight."""
    x, weight = torch.rand(788, 768), torch.rand(3072, 768)
    packed = operators.pack(weight, len(x))
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        operators.multiply(x, packed, None)
        times.append(time.perf_counter() - start)
    return 2 * len(x) * weight.numel() / min(times)


def operations(model: torch.nn.Module, x: torch.Tensor) -> int:
    """Return how many multiplications and additions the products and convolutions of a call take."""
    with FlopCounterMode(display=False) as counter:
        model(x)
    return counter.get_total_flops()


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument(
        "--merge", type=steps, nargs="*", default=[], help="Numbers r for Token Merging on packed layers."
    )
    parser.add_argument("--bf16", action="store_true", help="Add bfloat16: packed, timm by autocast, and timm cast.")
    parser.add_argument("--compile", action="store_true", help="Add timm compiled with frozen weights.")
    parser.add_argument("--tune", action="store_true", help="Add timm compiled with max-autotune, and packed compiled.")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch._inductor.config.freezing = True
    print(machine("torch", "timm", "tome"), f"{args.threads} threads")
    for case in args.cases:
        name, batch_size, goal = CASES[case]
        torch.manual_seed(0)
        plain = timm.create_model(name).eval()
        for parameter in plain.parameters():
            torch.nn.init.normal_(parameter, std=0.02)
        ours = timm.create_model(OURS[name]).eval() if name in OURS else copy.deepcopy(plain)
        x = torch.rand(batch_size, *plain.default_cfg["input_size"])
        models = {"packed": plm_core.apply(copy.deepcopy(ours), "packed", example=x)}
        for r in args.merge:
            merged = plm_core.apply(plm_core.apply(copy.deepcopy(ours), "packed"), "tome", r=r)
            merged(x)
            models[f"packed, r={r}"] = merged
        if name in OURS:
            models["ours, plain"] = ours
        if args.bf16:
            half = plm_core.apply(copy.deepcopy(ours), "packed", dtype="bf16")
            models |= {"packed, bf16": autocast(half), "timm, autocast": autocast(plain)}
            cast = copy.deepcopy(plain).bfloat16()
            models["timm.bfloat16()"] = lambda x, cast=cast: cast(x.bfloat16())
        if args.tune:
            models["packed, compiled"] = torch.compile(plm_core.apply(copy.deepcopy(ours), "packed", example=x))
            models["timm, tuned"] = torch.compile(copy.deepcopy(plain), mode="max-autotune-no-cudagraphs")
        if args.compile:
            models["timm, compiled"] = torch.compile(plain)
        models["timm"] = plain
        print(f"{case}: {packing.report(models['packed'])}; goal {goal}")
        title = f"{name}, batch size {batch_size}"
        medians = compare(title, {n: lambda m=m, x=x: m(x) for n, m in models.items()}, args.rounds)
        rate, best = operations(plain, x) / medians["packed"], best_rate()
        print(f"{title} packed: {rate / 1e9:.0f} GFLOP/s, {rate / best:.0%} of the best {best / 1e9:.0f} GFLOP/s")


if __name__ == "__main__":
    main()
