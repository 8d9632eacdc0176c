"""32 frames of a video of a minute, as `plm_core.lm.media` reads them, against bare PyAV seeking to the same frames.

uv run python tests/bench/plm_video.py [--width 1280 --height 720] [--seconds 60] [--gop 250 30] [--threads 2]

The peer is told the frames and seeks to each with PyAV; it counts none and checks nothing. "chunks" also resizes each
frame to 448 x 448 and normalises it.
"""

import argparse
import tempfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from side_by_side import compare, machine

from plm_core.lm.media import MediaSettings, read_video, video_chunks

RATE = 30


def write(path: Path, width: int, height: int, seconds: int, gop: int) -> None:
    """Write a video of a pattern that moves."""
    rows, columns = np.mgrid[:height, :width]
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=RATE, options={"preset": "veryfast", "crf": "23"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.gop_size = gop
        for number in range(seconds * RATE):
            waves = np.sin((columns + 3 * number) / 40) + np.cos((rows - 2 * number) / 30)
            grey = ((waves + 2) * 60).astype(np.uint8)
            pixels = np.stack([grey, np.roll(grey, number, 1), np.roll(grey, 5 * number, 0)], 2)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode(None))


def sought(path: Path, indices: list[int]) -> np.ndarray:
    """Read frames as bare PyAV does it: seek to the key frame before each, and decode up to it."""
    pictures = []
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        stream.thread_type = "AUTO"
        for index in indices:
            time = round(Fraction(index, RATE) / stream.time_base)
            file.seek(time, stream=stream)
            frame = next(frame for frame in file.decode(stream) if frame.pts >= time)
            pictures.append(frame.to_ndarray(format="rgb24"))
    return np.stack(pictures)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=720)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--gop", nargs="+", type=int, default=[250, 30], help="Frames from one key frame to the next.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(machine("torch", "av", "plm-core"), f"{args.threads} threads")
    settings = MediaSettings()
    with tempfile.TemporaryDirectory() as folder:
        for gop in args.gop:
            path = Path(folder) / f"gop{gop}.mp4"
            write(path, args.width, args.height, args.seconds, gop)
            frames = read_video(path, settings)
            assert np.array_equal(frames.pixels.numpy(), sought(path, frames.indices)), "the same frames"
            contenders = {
                "ours": lambda path=path: read_video(path, settings),
                "chunks": lambda path=path: video_chunks(path, settings),
                "PyAV": lambda path=path, indices=frames.indices: sought(path, indices),
            }
            title = f"{len(frames.indices)} frames, gop {gop}"
            compare(title, contenders, rounds=args.rounds, warmup=1)


if __name__ == "__main__":
    main()
