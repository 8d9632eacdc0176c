"""Our Hiera against the original (hiera-transformer from the public index) on video, large images and MAE training.

Its import name is ours, so it runs in a process and an environment of its own:

    uv venv /tmp/peer && VIRTUAL_ENV=/tmp/peer uv pip install hiera-transformer torch==2.15.0 torchvision timm
    uv run python tests/bench/hiera_original.py --peer-python /tmp/peer/bin/python
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

# Written out, since the original's environment has no hiera.configs of ours.
VIDEO = {
    "input_size": (16, 224, 224),
    "num_classes": 400,
    "q_stride": (1, 2, 2),
    "mask_unit_size": (1, 8, 8),
    "patch_kernel": (3, 7, 7),
    "patch_stride": (2, 4, 4),
    "patch_padding": (1, 3, 3),
    "sep_pos_embed": True,
}
TINY = {"embed_dim": 96, "num_heads": 1, "stages": (1, 2, 7, 2)}
BASE = {"embed_dim": 96, "num_heads": 1, "stages": (2, 3, 16, 3)}
CASES = {
    "video base 16x224, batch 1": ("forward", {**BASE, **VIDEO}, (1, 3, 16, 224, 224)),
    "image base 896, batch 1": ("forward", {**BASE, "input_size": (896, 896)}, (1, 3, 896, 896)),
    "MAE step tiny 224, batch 8": ("step", {**TINY, "q_pool": 2}, (8, 3, 224, 224)),
}


def worker(folder: Path, compiled: bool) -> None:
    """Answer each line ``CASE`` on stdin by a line ``seconds result`` on stdout; weights are shared through files."""
    import torch

    import hiera

    torch.set_num_threads(2)
    ready: dict[str, Callable[[], float]] = {}
    for line in sys.stdin:
        case = line.strip()
        if case not in ready:
            kind, config, shape = CASES[case]
            torch.manual_seed(0)
            x = torch.randn(shape)
            model = (hiera.Hiera if kind == "forward" else hiera.MaskedAutoencoderHiera)(**config)
            share(model, folder / f"{list(CASES).index(case)}.pt")
            call = forward if kind == "forward" else step
            ready = {case: call(model.train(kind == "step"), x, compiled)}
        start = time.perf_counter()
        result = ready[case]()
        print(f"{time.perf_counter() - start} {result}", flush=True)


def share(model, path: Path) -> None:
    """Give every worker the weights of the first, which is ours, under the original's names."""
    import torch

    try:
        from plm_core import weights
    except ModuleNotFoundError:  # the original's environment
        model.load_state_dict(torch.load(path))
        return
    if path.exists():
        weights.load(model, torch.load(path))
    else:
        layouts = weights.layouts_for(model)
        torch.save(weights.export(model, "official" if "official" in layouts else None), path)


def forward(model, x, compiled: bool) -> Callable[[], float]:
    """A forward pass; the result is the first probability. Compiled with its weights as constants (freezing)."""
    import torch

    if compiled:
        model = torch.compile(model, fullgraph=True, options={"freezing": True})

    def run() -> float:
        with torch.inference_mode():
            return model(x).flatten()[0].item()

    return run


def step(model, x, compiled: bool) -> Callable[[], float]:
    """A training step at mask ratio 0.6, always one mask; the result is the loss. Compiled, kept units by index."""
    import torch

    units = 49
    keep = torch.stack([torch.randperm(units, generator=torch.Generator().manual_seed(i))[:19] for i in range(len(x))])
    mask = torch.zeros(len(x), units, dtype=torch.bool).scatter(1, keep, True)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    run_model = torch.compile(model, fullgraph=True) if compiled else model
    given = keep.sort(1).values if compiled else mask

    def run() -> float:
        loss, *_ = run_model(x, mask_ratio=0.6, mask=given)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return run


def main() -> None:
    """Time the cases, interleaved."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer-python", required=True, help="Interpreter of the environment with hiera-transformer.")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    from side_by_side import compare, machine

    print(machine("torch", "hiera"), "2 threads, fp32")
    with tempfile.TemporaryDirectory() as folder:
        processes = {
            name: subprocess.Popen(
                [python, "-W", "ignore", __file__, "--worker", folder, name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONWARNINGS": "ignore"},
            )
            for name, python in {
                "ours": sys.executable,
                "ours compiled": sys.executable,
                "original": args.peer_python,
            }.items()
        }

        def ask(name: str, case: str) -> str:
            process = processes[name]
            process.stdin.write(case + "\n")
            process.stdin.flush()
            return process.stdout.readline()

        for case in CASES:
            first = {name: ask(name, case).split()[1] for name in processes}
            print(f"{case:<28} first result {first}")
            contenders = {name: lambda name=name, case=case: ask(name, case) for name in processes}
            compare(case, contenders, rounds=args.rounds, warmup=1)
        for process in processes.values():
            process.stdin.close()


if __name__ == "__main__":
    worker(Path(sys.argv[2]), "compiled" in sys.argv[3]) if "--worker" in sys.argv else main()
