"""The matching of ZipIt! against a plain restatement of its rule, which copies and scans all pairs for each merge.

uv run python tests/bench/zipit_matching.py [--features 128 256 512] [--ours 512 1024 2048] [--rounds 5] [--threads 1]

The groups of both are compared. Then the time and the memory of larger ones, without the peer.
"""

import argparse
import resource
import time

import numpy as np
import torch
from side_by_side import compare, machine

import zipit
from zipit.matching import correlation


def covariance_of(features: int) -> np.ndarray:
    """Return the covariance of two models' features, which have partners of many degrees."""
    rng = np.random.default_rng(features)
    x = rng.standard_normal((features, 2 * features))
    both = np.concatenate(
        [x, x[rng.permutation(features)] + rng.uniform(0, 2, (features, 1)) * rng.standard_normal(x.shape)]
    )
    return np.cov(both)


def plain(covariance: np.ndarray, a: float = 0.3, b: float = 0.125) -> np.ndarray:
    """The rule on a matrix that shrinks: each merge scans all of it, and copies it four times."""
    s = correlation(covariance).astype(np.float32)
    np.fill_diagonal(s, -np.inf)
    total, n = len(s), len(s) // 2
    groups = np.eye(total, dtype=np.float32)
    origin = np.arange(total) // n
    budget = [int(n // 2 * b + 1e-4)] * 2
    while len(s) > n:
        i, j = sorted(np.unravel_index(s.argmax(), s.shape))
        groups[:, i] += groups[:, j]
        groups = np.delete(groups, j, 1)
        s[:, i] = np.minimum(s[:, i], s[:, j]) * np.float32(a)
        s = np.delete(s, j, 1)
        s[i] = np.minimum(s[i], s[j]) * np.float32(1)
        s = np.delete(s, j, 0)
        s[i] = s[:, i]
        s[i, i] = -np.inf
        same, of = origin[i] == origin[j], origin[i]
        origin = np.delete(origin, j)
        if same:
            budget[of] -= 1
            if budget[of] <= 0:
                own = np.flatnonzero(origin == of)
                s[np.ix_(own, own)] = -np.inf
    return groups


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--features", nargs="+", type=int, default=[128, 256, 512])
    parser.add_argument("--ours", nargs="+", type=int, default=[512, 1024, 2048])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(machine("numpy", "zipit"), f"{args.threads} threads, two models, r=0.5, a=0.3, b=0.125")
    for features in args.features:
        covariance = covariance_of(features)
        same = np.array_equal(zipit.match(covariance)[1].numpy(), plain(covariance))
        print(f"2 x {features}: the same groups: {same}")
        contenders = {"zipit.match": lambda c=covariance: zipit.match(c), "plain rule": lambda c=covariance: plain(c)}
        compare(f"2 x {features}", contenders, rounds=args.rounds, warmup=0)
    last = 0.0
    for features in args.ours:
        covariance = covariance_of(features)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        times = []
        for _ in range(args.rounds):
            start = time.perf_counter()
            zipit.match(covariance)
            times.append(time.perf_counter() - start)
        seconds = float(np.median(times))
        more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        growth = f", {seconds / last:.1f}x the last" if last else ""
        print(f"2 x {features}: {seconds:.2f} s{growth}; the peak of memory rose by {more:.0f} MiB")
        last = seconds


if __name__ == "__main__":
    main()
