"""How fast the procedural world makes items on one core (it starts no threads): `python tests/bench/shapes.py`."""

import statistics
import time

from plm_core import shapes

RUNS = 7


def rate(dataset: shapes.Images | shapes.Clips) -> float:
    """Items per second, as the median of several runs over the whole dataset, after one that warms up."""
    seconds = []
    for _ in range(RUNS + 1):
        start = time.perf_counter()
        for _ in dataset:
            pass
        seconds.append(time.perf_counter() - start)
    return len(dataset) / statistics.median(seconds[1:])


if __name__ == "__main__":
    print(f"images of 64x64, 1 to 4 objects:           {rate(shapes.Images(size=64, count=500)):6.0f} per second")
    print(f"clips of 8 frames of 64x64, 1 to 3 objects:{rate(shapes.Clips(size=64, count=100)):6.0f} per second")
