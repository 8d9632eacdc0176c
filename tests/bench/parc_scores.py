"""Scores against naive restatements of the original's algorithms, and a bank of models.

    uv run python tests/bench/parc_scores.py [parc] [hscore] [logme] [bank]

The peers are written here from the descriptions of the originals, with numpy, scipy and scikit-learn. LogME has no
other peer: the distribution ``logme`` of the public index is a logging library. Set OMP_NUM_THREADS=1 for one thread.
"""

from __future__ import annotations

import sys
import time
import tracemalloc
import warnings
from functools import partial

import numpy as np
from side_by_side import compare, machine

from parc.scores.covariance import hscore
from parc.scores.evidence import logme
from parc.scores.pairwise import parc
from parc.scoring import Features, score_bank

CLASSES = 50
TEN = ["parc", "parc-auc", "knn", "split-knn", "logme", "hscore-shrunk", "lda-loo", "transrate", "leep", "nce"]


def sample(n, d, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % CLASSES
    x = rng.standard_normal((n, d), np.float32) + 0.3 * rng.standard_normal((CLASSES, d), np.float32)[y]
    return x, y


def naive_parc(x, y):
    from scipy.stats import spearmanr
    from sklearn.preprocessing import StandardScaler

    features = 1 - np.corrcoef(StandardScaler().fit_transform(x))
    labels = 1 - np.corrcoef(np.eye(CLASSES)[y])
    upper = np.triu_indices(len(x), 1)
    return 100 * spearmanr(features[upper], np.round(labels[upper], 10))[0]


def naive_hscore(x, y):
    from sklearn.preprocessing import StandardScaler

    z = StandardScaler().fit_transform(x.astype(np.float64))
    means = np.zeros_like(z)
    for c in np.unique(y):
        means[y == c] = z[y == c].mean(0)
    return np.trace(np.linalg.pinv(np.cov(z, rowvar=False), rcond=1e-15) @ np.cov(means, rowvar=False))


def naive_logme(x, y):
    """LogME class by class, on one thin SVD."""
    n = len(x)
    u, s, _ = np.linalg.svd(x.astype(np.float64), full_matrices=False)
    sigma, total = s**2, 0.0
    for c in range(y.max() + 1):
        t = (y == c).astype(np.float64)
        projected = u.T @ t
        rest, a, b = t @ t - projected @ projected, 1.0, 1.0
        for _ in range(11):
            ratio = a / b
            known = (sigma / (sigma + ratio)).sum()
            length = (sigma * projected**2 / (ratio + sigma) ** 2).sum()
            residual = (projected**2 / (1 + sigma / ratio) ** 2).sum() + rest
            a, b = known / (length + 1e-5), (n - known) / (residual + 1e-5)
            if abs(a / b - ratio) / ratio <= 1e-3:
                break
        log = len(s) * np.log(a) + n * np.log(b) - np.log(a + b * sigma).sum() - b * residual - a * length
        total += (log - n * np.log(2 * np.pi)) / (2 * n)
    return total / (y.max() + 1)


def peak(run, *inputs):
    """Return the result of a run, its seconds, and the additional memory in MB that it needs at most."""
    tracemalloc.start()
    before, start = tracemalloc.get_traced_memory()[0], time.perf_counter()
    value = run(*inputs)
    seconds = time.perf_counter() - start
    extra = (tracemalloc.get_traced_memory()[1] - before) / 1e6
    tracemalloc.stop()
    return value, seconds, extra


def against(title, ours, naive, inputs, rounds, warmup=1):
    compare(title, {"ours": partial(ours, *inputs), "naive": partial(naive, *inputs)}, rounds, warmup)


def bench_parc():
    against("PARC 500x2048", parc, naive_parc, sample(500, 2048), 9)
    against("PARC 2000x2048", parc, naive_parc, sample(2000, 2048), 3)
    for n in (500, 2000, 5000):
        inputs = sample(n, 2048)
        value, seconds, extra = peak(parc, *inputs)
        other, peer_seconds, peer_extra = peak(naive_parc, *inputs)
        print(
            f"PARC {n}x2048 once: ours {seconds:.2f} s, {extra:.0f} MB; naive {peer_seconds:.2f} s, {peer_extra:.0f} MB"
        )
        print(f"  {peer_seconds / seconds:.1f}x faster, {peer_extra / extra:.1f}x less memory", end="; ")
        print(f"the scores differ by {abs(value - other):.1e}", flush=True)


def bench_hscore():
    against("H-score 500x2048", hscore, naive_hscore, sample(500, 2048), 3, 0)


def bench_logme():
    for n, d in ((500, 512), (500, 2048), (2000, 512)):
        against(f"LogME {n}x{d}", logme, naive_logme, sample(n, d), 5)


def bench_bank():
    bank, y = {}, sample(500, 2)[1]
    for i in range(32):
        rng = np.random.default_rng(i)
        x, _ = sample(500, (512, 768, 1024, 2048)[i % 4], i)
        bank[f"m{i}"] = Features(x, rng.dirichlet(np.full(100, 0.1), 500))
    for pca in (32, None):
        start, cpu = time.perf_counter(), time.process_time()
        rows = score_bank(bank, y, TEN, pca=pca, bootstraps=20)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        failed = {row.error for row in rows if row.error or row.low is None}
        print(
            f"bank of 32 x 500 x 512..2048, {len(TEN)} scores, 20 half-samples, pca={pca}: {seconds:.1f} s"
            f" ({cpu:.1f} s of CPU); failed: {failed or 'none'}",
            flush=True,
        )


if __name__ == "__main__":
    warnings.simplefilter("ignore", UserWarning)
    print(machine("numpy", "scipy", "scikit-learn"))
    for part in sys.argv[1:] or ("parc", "hscore", "logme", "bank"):
        globals()[f"bench_{part}"]()
