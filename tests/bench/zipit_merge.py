"""Time and memory of a whole merge of two ResNet-50 with random weights, and the shares of its parts.

uv run python tests/bench/zipit_merge.py [--model resnet50] [--images 64] [--size 224] [--batch-size 16] [--threads 2]
"""

import argparse
import resource
import threading
import time
from contextlib import contextmanager

import timm
import torch
from side_by_side import machine

from zipit import api

PARTS = {"graph": "trace and groups", "observe": "statistics", "align": "matching", "combine": "application",
         "reset_norms": "batch norms"}  # fmt: skip


def resident() -> float:
    """Return the resident memory of this process in MiB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


@contextmanager
def peak(result: dict[str, float]):
    """Note the highest resident memory of a block above that before it, in MiB."""
    start, done = resident(), threading.Event()
    highest = [start]

    def watch() -> None:
        while not done.wait(0.02):
            highest[0] = max(highest[0], resident())

    thread = threading.Thread(target=watch)
    thread.start()
    yield
    done.set()
    thread.join()
    result["peak"] = highest[0] - start


def timed(function, name: str, times: dict[str, float]):
    """Return a function that adds the time of its calls to ``times[name]``."""

    def call(*args, **options):
        start = time.perf_counter()
        try:
            return function(*args, **options)
        finally:
            times[name] += time.perf_counter() - start

    return call


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--until")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(machine("torch", "timm", "zipit"), f"{args.threads} threads, fp32")
    models = [timm.create_model(args.model).eval() for _ in range(2)]
    batches = torch.randn(args.images, 3, args.size, args.size).split(args.batch_size)
    times = dict.fromkeys(PARTS, 0.0)
    for name in PARTS:
        setattr(api, name, timed(getattr(api, name), name, times))
    memory: dict[str, float] = {}
    start = time.perf_counter()
    with peak(memory):
        api.merge(models, batches, until=args.until)
    total = time.perf_counter() - start
    print(
        f"two {args.model}, {args.images} images of {args.size}: {total:.1f} s, {memory['peak']:.0f} MiB more at most"
    )
    for name, label in PARTS.items():
        print(f"  {label:<18} {times[name]:7.1f} s  {times[name] / total:4.0%}")


if __name__ == "__main__":
    main()
