"""Token Merging in a diffusion UNet: ours against tomesd, same weights, one run; and where our time goes.

uv run python tests/bench/tome_diffusion.py [--channels 64 160] [--latents 64] [--ratio 0.5] [--threads 1]
"""

import argparse
import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

import diffusers
import tomesd
import torch
from side_by_side import compare, machine

import tome
from tome.diffusion import sites, state

WAYS = {
    "ours": {},
    "ours kv_only": {"kv_only": True},
    "ours share": {"share": True},
    "ours share reuse": {"share": True, "reuse_steps": 4},
}


def unet(channels: int, latents: int) -> torch.nn.Module:
    """A UNet with attention at the level of the latents only: 3 blocks, heads of 8 channels."""
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(
        sample_size=latents,
        layers_per_block=1,
        block_out_channels=(channels, 2 * channels),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        mid_block_type=None,
        cross_attention_dim=64,
        attention_head_dim=8,
    ).eval()


@contextmanager
def timed(spent: dict[str, float], synchronize: Callable[[], None]) -> Iterator[None]:
    """Add up the time that matching, merging and unmerging take."""

    def clocked(name: str, function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def run(*args: object) -> torch.Tensor:
            synchronize()
            start = time.perf_counter()
            out = function(*args)
            synchronize()
            spent[name] = spent.get(name, 0.0) + time.perf_counter() - start
            return out

        return run

    with (
        mock.patch.object(state, "match", clocked("matching", state.match)),
        mock.patch.object(sites, "merge", clocked("merging", sites.merge)),
        mock.patch.object(sites, "unmerge", clocked("unmerging", sites.unmerge)),
    ):
        yield


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--channels", nargs="+", type=int, default=[64, 160], help="Of the level with attention.")
    parser.add_argument("--latents", type=int, default=64, help="Height and width.")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--half", action="store_true", help="float16 on cuda, bfloat16 on cpu.")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    dtype = torch.float32 if not args.half else torch.float16 if args.device == "cuda" else torch.bfloat16
    synchronize = torch.cuda.synchronize if args.device == "cuda" else lambda: None
    print(machine("torch", "diffusers", "tomesd", "tome"), f"{args.threads} threads, {args.device}, {dtype}")
    for channels in args.channels:
        plain = unet(channels, args.latents).to(args.device, dtype)
        sample = torch.randn(args.batch, 4, args.latents, args.latents).to(args.device, dtype)
        text = torch.randn(args.batch, 77, 64).to(args.device, dtype)
        models = {
            name: tome.diffusion.apply(copy.deepcopy(plain), args.ratio, **options) for name, options in WAYS.items()
        }
        models |= {"plain": plain, "tomesd": tomesd.apply_patch(copy.deepcopy(plain), ratio=args.ratio)}

        def run(model: torch.nn.Module, sample: torch.Tensor = sample, text: torch.Tensor = text) -> torch.Tensor:
            out = model(sample, 500, text).sample
            synchronize()
            return out

        outs = []
        for name in ("ours", "tomesd"):
            torch.manual_seed(0)
            outs.append(run(models[name]))
        title = f"{channels} channels, {args.latents}x{args.latents}, {args.ratio:.0%}"
        print(f"{title:<28} largest difference to tomesd {(outs[0] - outs[1]).abs().max().item():.1e}")
        compare(title, {name: lambda m=m: run(m) for name, m in models.items()}, rounds=args.rounds)
        for name in WAYS:
            spent: dict[str, float] = {}
            start = time.perf_counter()
            with timed(spent, synchronize):
                for _ in range(args.rounds):
                    run(models[name])
            whole = time.perf_counter() - start
            shares = ", ".join(f"{part} {seconds / whole:.2%}" for part, seconds in spent.items())
            print(
                f"{title:<28} {name:<16} overhead {sum(spent.values()) / whole:.2%} of its time: {shares}", flush=True
            )


if __name__ == "__main__":
    main()
