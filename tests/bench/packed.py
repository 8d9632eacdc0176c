"""Packed linear layers against timm, eager and compiled with frozen weights, in one run on the CPU.

uv run python tests/bench/packed.py [--cases vit_b vit_s] [--rounds 9] [--threads 2] [--merge 8 16,-1] [--bf16]
    [--compile] [--tune] [--plot FILE]

Ratios are those of the same round. The rate is that of all products and convolutions of timm's model over the time of
the packed model. The best rate is that of one large product with a packed weight.
"""

import argparse
import copy
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import timm
import torch
from matplotlib.patches import Rectangle
from side_by_side import compare, machine, processor
from torch.utils.flop_counter import FlopCounterMode

import hiera  # noqa: F401  (its models are known to timm then)
import plm_core
from plm_core import packing
from plm_core.errors import NotSupported
from plm_core.packing import operators
from plm_core.utils import plots

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


def plot(gains: dict[str, dict[str, float]], path: Path, threads: int) -> None:
    """Draw how many times as fast as timm each model is, packed and with Token Merging, as bars."""
    figure = plots.figure("a plot", "plm-core[tour]", figsize=(6.4, 0.6 + 0.36 * len(gains)), layout="constrained")
    ax = figure.subplots()
    colours = ("#4477aa", "#66ccee", "#228833", "#ccbb44", "#aa3377")
    names = list(dict.fromkeys(name for values in gains.values() for name in values))
    for row, values in enumerate(reversed(gains.values())):
        for name in reversed(names):  # the longest bar first, so that the others lie on it
            if name in values:
                ax.barh(row, values[name], 0.7, color=colours[names.index(name)])
        ax.text(max(values.values()) + 0.04, row, f"{max(values.values()):.2f}", va="center", fontsize=8)
    ax.axvline(1, color="black", linewidth=0.8)
    ax.set_yticks(range(len(gains)), reversed(gains), fontsize=8)
    ax.set_xlabel(
        f"times as fast as timm, float32, {threads} thread{'s' * (threads > 1)} of an {processor()}", fontsize=8
    )
    bars = [Rectangle((0, 0), 1, 1, color=colours[at]) for at in range(len(names))]
    ax.legend(bars, [name.replace("r=", "Token Merging r=") for name in names], fontsize=8, frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument(
        "--merge", type=steps, nargs="*", default=[], help="Numbers r for Token Merging on packed layers."
    )
    parser.add_argument("--bf16", action="store_true", help="Add bfloat16: packed, timm by autocast, and timm cast.")
    parser.add_argument("--compile", action="store_true", help="Add timm compiled with frozen weights.")
    parser.add_argument("--tune", action="store_true", help="Add timm compiled otherwise, and packed compiled.")
    parser.add_argument("--plot", type=Path, help="Draw the gain over timm into this picture.")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch._inductor.config.freezing = True
    print(machine("torch", "timm", "tome"), f"{args.threads} threads")
    gains: dict[str, dict[str, float]] = {}
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
            with suppress(NotSupported):  # not every model has tokens that can merge
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
        torch._dynamo.reset()  # else the second model's sizes would be dynamic, which changes what it is compiled to
        if args.tune:
            packed = plm_core.apply(copy.deepcopy(ours), "packed", example=x)
            models["packed, compiled"] = torch.compile(packed, dynamic=False)
            tuned = torch.compile(copy.deepcopy(plain), mode="max-autotune-no-cudagraphs", dynamic=False)
            models |= {"timm, tuned": tuned, "timm, dynamic": torch.compile(copy.deepcopy(plain), dynamic=True)}
        if args.compile:
            models["timm, compiled"] = torch.compile(plain, dynamic=False)
        models["timm"] = plain
        print(f"{case}: {packing.report(models['packed'])}; goal {goal}")
        title = f"{name}, batch size {batch_size}"
        medians = compare(title, {n: lambda m=m, x=x: m(x) for n, m in models.items()}, args.rounds)
        gains[f"{name}, {batch_size}"] = {
            key: medians["timm"] / medians[key] for key in medians if key.startswith("packed")
        }
        rate, best = operations(plain, x) / medians["packed"], best_rate()
        print(f"{title} packed: {rate / 1e9:.0f} GFLOP/s, {rate / best:.0%} of the best {best / 1e9:.0f} GFLOP/s")
    if args.plot is not None:
        plot(gains, args.plot, args.threads)


if __name__ == "__main__":
    main()
