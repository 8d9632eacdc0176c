"""`plm embed` against the loop that anyone would write with timm and torch's DataLoader.

uv run python tests/bench/embed.py [--models resnet18] [--images 256] [--rounds 7] [--num-workers 2] [--threads 1]

Both read the same JPEG files with the same preprocessing, batch size and number of workers, and keep the embeddings of
a model without classifier. "plm" is `embed_images`, what runs between loading the model and writing the file. "plm,
whole" is `embed_folder` besides the creation of the model: it looks for the files, hashes the weights, keeps partial
results and writes the file too. "plm, fast" is with packed weights, as by `--fast`.
"""

import argparse
import copy
import logging
import tempfile
from pathlib import Path

import numpy as np
import timm
import torch
from bare_loop import bare_loop, write_photographs
from side_by_side import compare, machine

from plm_core.embeddings import embed_folder, embed_images, loading
from plm_core.packing import make_fast

GOAL = 1 / 0.95


def ours(model: torch.nn.Module, files: list[Path], args: argparse.Namespace) -> np.ndarray:
    batches = embed_images(model, files, batch_size=args.batch_size, num_workers=args.num_workers)
    return np.concatenate([batch.vectors for batch in batches])


def whole(model: torch.nn.Module, root: Path, out: Path, args: argparse.Namespace) -> np.ndarray:
    loading.create_model = lambda name, pretrained: model  # the bare loop has one already
    options = {"batch_size": args.batch_size, "num_workers": args.num_workers, "device": args.device}
    return embed_folder(root, "the model above", out, **options).embeddings.vectors


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", nargs="+", default=["resnet18", "vit_tiny_patch16_224", "mobilenetv3_small_100"])
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--num-workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(args.threads)
    print(machine("torch", "timm", "plm-core"), f"{args.threads} threads, fp32, {args.num_workers} workers")
    print(f"goal {GOAL:.3f}x of the time, that is 0.95x of the images per second")
    with tempfile.TemporaryDirectory() as images, tempfile.TemporaryDirectory() as out:
        root = Path(images)
        write_photographs(root, args.images)
        files = sorted(root.rglob("*.jpg"))

        def bare(model: torch.nn.Module) -> np.ndarray:
            return bare_loop(model, root, args.batch_size, args.num_workers, torch.device(args.device)).numpy()

        for name in args.models:
            model = timm.create_model(name, num_classes=0).eval().to(args.device)
            np.testing.assert_allclose(ours(model, files, args), bare(model), rtol=1e-3, atol=1e-4)
            contenders = {
                "plm": lambda m=model: ours(m, files, args),
                "plm, whole": lambda m=model: whole(m, root, Path(out) / "x.safetensors", args),
                "bare timm": lambda m=model: bare(m),
            }
            if args.device == "cpu":
                fast = copy.deepcopy(model)
                make_fast(fast)
                contenders = {"plm, fast": lambda m=fast: ours(m, files, args)} | contenders
            times = compare(f"{name}, {args.images} images", contenders, rounds=args.rounds, warmup=1)
            print("  images/s: " + ", ".join(f"{who} {args.images / time:.0f}" for who, time in times.items()))


if __name__ == "__main__":
    main()
