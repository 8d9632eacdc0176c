"""Token Merging in a diffusion UNet: our speed against tomesd's with the same weights in one run, and our overhead.

uv run python tests/bench/tome_diffusion.py [--models 64 160] [--latents 64] [--ratio 0.5] [--threads 1]
uv run python tests/bench/tome_diffusion.py --models sd15 sdxl --latents 128 --device cuda --half
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
from tome.diffusion import hooks, state

WAYS = {
    "ours": {},
    "ours kv_only": {"kv_only": True},
    "ours share": {"share": True},
    "ours share reuse": {"share": True, "reuse_steps": 4},
}


# The published sizes, with random weights.
SD15 = {"block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768, "attention_head_dim": 8}
SDXL = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


def unet(model: str, latents: int) -> torch.nn.Module:
    """Return a UNet of a published size, or a small one: attention at the level of the latents, in 3 blocks."""
    torch.manual_seed(0)
    if model in ("sd15", "sdxl"):
        config = SD15 if model == "sd15" else SDXL
        return diffusers.UNet2DConditionModel(sample_size=latents, **config).eval()
    channels = int(model)
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
    """Add up the time of matching, merging and unmerging."""

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
        mock.patch.object(hooks, "merge", clocked("merging", hooks.merge)),
        mock.patch.object(hooks, "unmerge", clocked("unmerging", hooks.unmerge)),
    ):
        yield


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--models", nargs="+", default=["64", "160"], help="sd15, sdxl, or the channels of a small one."
    )
    parser.add_argument("--max-downsample", type=int, help="Levels to merge at (default: the highest).")
    parser.add_argument("--latents", type=int, default=64, help="Height and width of the latents.")
    parser.add_argument("--batch-size", type=int, default=2)
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
    for name in args.models:
        plain = unet(name, args.latents).to(args.device, dtype)
        sample = torch.randn(args.batch_size, 4, args.latents, args.latents).to(args.device, dtype)
        text = torch.randn(args.batch_size, 77, plain.config.cross_attention_dim).to(args.device, dtype)
        added = {"text_embeds": torch.randn(args.batch_size, 1280), "time_ids": torch.ones(args.batch_size, 6)}
        added = {key: value.to(args.device, dtype) for key, value in added.items()}
        models = {
            way: tome.diffusion.apply(copy.deepcopy(plain), args.ratio, max_downsample=args.max_downsample, **options)
            for way, options in WAYS.items()
        }
        theirs = tomesd.apply_patch(copy.deepcopy(plain), args.ratio, max_downsample=args.max_downsample or 1)
        models |= {"plain": plain, "tomesd": theirs}

        def run(model: torch.nn.Module, sample=sample, text=text, added=added) -> torch.Tensor:
            out = model(sample, 500, text, added_cond_kwargs=added).sample
            synchronize()
            return out

        outs = []
        for way in ("ours", "tomesd"):
            torch.manual_seed(0)
            outs.append(run(models[way]))
        title = f"{name}, {args.latents}x{args.latents}, {args.ratio:.0%}"
        print(f"{title:<28} largest difference to tomesd {(outs[0] - outs[1]).abs().max().item():.1e}")
        compare(title, {way: lambda m=m: run(m) for way, m in models.items()}, rounds=args.rounds)
        for way in WAYS:
            spent: dict[str, float] = {}
            start = time.perf_counter()
            with timed(spent, synchronize):
                for _ in range(args.rounds):
                    run(models[way])
            whole = time.perf_counter() - start
            shares = ", ".join(f"{part} {seconds / whole:.2%}" for part, seconds in spent.items())
            print(f"{title:<28} {way:<16} overhead {sum(spent.values()) / whole:.2%} of its time: {shares}", flush=True)


if __name__ == "__main__":
    main()
