"""How fast captions are read, from rows beside the parsing of their JSON, and from shards beside webdataset's own pass.

uv run python tests/bench/captions.py [--rows 1000000] [--samples 50000] [--rounds 3]

The rows name as many empty files in a thousand folders, which are looked for. The shards hold 5 kB for each picture.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path

import webdataset
from side_by_side import compare, machine

from plm_core.datasets import load_captions

CAPTION = "a small red circle left of a large blue star, number {}"


def write_rows(root: Path, count: int) -> Path:
    """Write a file of rows and the files that it names."""
    for folder in range(1000):
        (root / f"{folder:03}").mkdir()
    with open(root / "captions.jsonl", "w") as file:
        for i in range(count):
            name = f"{i % 1000:03}/{i:07}.jpg"
            os.mknod(root / name)
            row = {"image": name, "caption": CAPTION.format(i), "url": f"https://example.com/{i}.jpg", "width": 512}
            file.write(json.dumps(row) + "\n")
    return root / "captions.jsonl"


def write_shard(root: Path, count: int) -> Path:
    """Write a shard by webdataset."""
    with webdataset.TarWriter(str(root / "000.tar")) as writer:
        for i in range(count):
            writer.write({"__key__": f"{i:07}", "jpg": os.urandom(5000), "txt": CAPTION.format(i)})
    return root / "000.tar"


def parsed(file: Path) -> int:
    """Parse the rows and keep nothing of them."""
    with open(file, "rb") as rows:
        return sum(len(json.loads(row.decode())) for row in rows)


def streamed(shard: Path) -> int:
    """Read all samples as webdataset does, without decoding them."""
    return sum(1 for _ in webdataset.WebDataset(str(shard), shardshuffle=False))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    print(machine("plm-core", "webdataset"))
    with tempfile.TemporaryDirectory() as root:
        file, shard = write_rows(Path(root), args.rows), write_shard(Path(root), args.samples)
        ours, theirs = (lambda: load_captions(file)), (lambda: parsed(file))
        compare(f"{args.rows} rows", {"load_captions": ours, "JSON alone": theirs}, args.rounds, warmup=1)
        ours, theirs = (lambda: load_captions(shard)), (lambda: streamed(shard))
        compare(f"{args.samples} samples", {"load_captions": ours, "webdataset": theirs}, args.rounds, warmup=1)


if __name__ == "__main__":
    main()
