"""Features and probabilities as `parc rank` extracts them, against a bare timm loop that keeps the logits.

uv run python tests/bench/parc_extraction.py [--models resnet18 vit_tiny_patch16_224] [--images 128] [--rounds 5]

Both read the same JPEG files, with the model's own preprocessing, the same batch size and the same number of workers.
"parc, fast" is with packed weights, as by `--fast`. "parc and cache" is all that `parc rank` does for a model besides
scoring: it hashes the weights and writes the cache too.
"""

import argparse
import copy
import logging
import tempfile
from pathlib import Path

import timm
import torch
from bare_loop import bare_loop, write_photographs
from side_by_side import compare, machine

from parc.ranking.cache import Cache, Key
from parc.ranking.extraction import extract, preprocess_digest
from parc.ranking.probes import Probe, draw_probes
from parc.ranking.settings import Settings
from plm_core.datasets import load_dataset
from plm_core.embeddings.digests import weights_digest
from plm_core.packing import make_fast

GOAL = 1 / 0.95


def whole(model: torch.nn.Module, probe: Probe, root: str, settings: Settings) -> None:
    """Extraction with the digests and the cache that make a ranking resumable."""
    key = Key(weights_digest(model), preprocess_digest(model, "fp32", probe.kind), probe.digest, 0)
    entry = Cache(root).get(key, probe.labels, lambda: extract(model, probe, settings, head=True))
    assert not entry.cached
    (Path(root) / key.path).unlink()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", nargs="+", default=["resnet18", "vit_tiny_patch16_224", "mobilenetv3_small_100"])
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--num-workers", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    settings = Settings(batch_size=args.batch_size, num_workers=args.num_workers, device=args.device)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{args.threads} threads"
    print(machine("torch", "timm", "parc"), f"{where}, fp32, {args.num_workers} workers; goal {GOAL:.3f}x of the time")
    with tempfile.TemporaryDirectory() as images, tempfile.TemporaryDirectory() as cache:
        write_photographs(Path(images), args.images)
        probe = draw_probes(load_dataset(images), budget=args.images)[0]
        for name in args.models:
            model = timm.create_model(name).eval().to(device)
            contenders = {
                "parc": lambda m=model: extract(m, probe, settings, head=True),
                "parc and cache": lambda m=model: whole(m, probe, cache, settings),
                "bare timm": lambda m=model: bare_loop(m, Path(images), args.batch_size, args.num_workers, device),
            }
            if device.type == "cpu":
                fast = copy.deepcopy(model)
                make_fast(fast)
                contenders = {"parc, fast": lambda m=fast: extract(m, probe, settings, head=True)} | contenders
            compare(f"{name}, {args.images} images", contenders, rounds=args.rounds, warmup=1)


if __name__ == "__main__":
    main()
