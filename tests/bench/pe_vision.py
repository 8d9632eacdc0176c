"""Forward pass of our vision towers against timm's with the same weights, one run: plain, and with packed layers.

uv run python tests/bench/pe_vision.py [--sizes t16_384 b16_224 micro] [--batch-size 1 8] [--threads 2] [--packed]
    [--features] [--device cuda --dtype bfloat16]

With --features also: the tokens of the layer half way against a whole pass, and a video of 8 frames against 8 images.
"""

import argparse
from collections.abc import Mapping
from functools import partial
from typing import Any

import timm
import torch
from side_by_side import compare, machine
from timm.models.eva import Eva

import pe_encoder
import plm_core
from plm_core import weights

THEIRS = {
    "t16_384": "vit_pe_core_tiny_patch16_384",
    "s16_384": "vit_pe_core_small_patch16_384",
    "b16_224": "vit_pe_core_base_patch16_224",
    "l14_336": "vit_pe_core_large_patch14_336",
    "g14_448": "vit_pe_core_gigantic_patch14_448",
}


def pair(size: str) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Return our tower and timm's, with the same weights."""
    torch.manual_seed(0)
    if size == "micro":  # 64 px, patches of 8, width 64, 4 blocks
        theirs = Eva(
            img_size=64, patch_size=8, embed_dim=64, depth=4, num_heads=4, num_classes=32, global_pool="map",
            attn_type="rope", use_pre_transformer_norm=True, use_rot_pos_emb=True, ref_feat_shape=(8, 8),
            rope_grid_offset=1.0, rope_grid_indexing="xy", attn_pool_num_heads=8, attn_pool_mlp_ratio=4.0,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-5),
        )  # fmt: skip
        ours = pe_encoder.VisionTower(8, 64, 4, 4, output_dim=32, image_size=64)
    else:
        theirs, ours = timm.create_model(THEIRS[size]), plm_core.create_model(f"pe_core_{size}")
    for name, parameter in theirs.named_parameters():
        if "norm" in name or "head" in name or "latent" in name:  # timm starts them at values that hide differences
            torch.nn.init.normal_(parameter, std=0.2)
    torch.nn.init.zeros_(theirs.head.bias)
    weights.load(ours, theirs.state_dict())
    return ours.eval(), theirs.eval()


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", nargs="+", default=["micro", "t16_384", "b16_224"])
    parser.add_argument("--batch-size", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--features", action="store_true", help="Also inner layers and videos.")
    parser.add_argument("--packed", action="store_true", help="Also our tower with the transform packed.")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(machine("torch", "timm", "pe-encoder"), f"{args.threads} threads, {args.dtype}")
    home = {"device": args.device, "dtype": getattr(torch, args.dtype)}
    for size in args.sizes:
        ours, theirs = (model.to(**home) for model in pair(size))
        packed = pair(size)[0] if args.packed else None
        for batch_size in args.batch_size:
            x = torch.rand(batch_size, 3, *ours.image_size).to(**home)
            worst = ((ours(x) - theirs(x)).abs().max() / theirs(x).abs().max()).item()
            title = f"{size}, batch {batch_size}"
            print(f"{title:<28} largest relative difference {worst:.1e}")
            contenders = {"ours": lambda x=x, m=ours: m(x), "timm": lambda x=x, m=theirs: m(x)}
            if packed is not None:
                if batch_size == args.batch_size[0]:
                    plm_core.apply(packed, "packed")
                contenders = {"packed": lambda x=x, m=packed: m(x), **contenders}
            compare(title, contenders, rounds=args.rounds if size != "micro" else 20 * args.rounds)
        if args.features:
            features(size, ours, args.rounds, home)


def features(size: str, tower: torch.nn.Module, rounds: int, home: Mapping[str, Any]) -> None:
    """Compare the tokens of an inner layer with a whole pass, and a video with as many images."""
    image = torch.rand(1, 3, *tower.image_size).to(**home)
    half = {"layer 0.5": lambda: tower.forward_features(image, layer_idx=0.5), "whole": lambda: tower(image)}
    compare(f"{size}, features", half, rounds=rounds)
    video = torch.rand(1, 8, 3, *tower.image_size).to(**home)
    text = {"width": 16, "heads": 1, "layers": 1, "output_dim": tower.num_classes, "vocab_size": 8}
    clip = pe_encoder.CLIP(vision={"layers": 1, "width": 16, "heads": 1, "output_dim": tower.num_classes}, text=text)
    clip.visual = tower
    both = {"video of 8": lambda: clip.eval().encode_video(video), "8 images": lambda: tower(video[0])}
    compare(f"{size}, video", both, rounds=max(rounds // 2, 3))


if __name__ == "__main__":
    main()
