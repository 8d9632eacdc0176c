"""Covariances of the features of several models, in one pass over the data for all places.

Shapes: B images, S samples (an image has one for each place or token), n features of one model, O of all models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from plm_core import InputError, PlmError
from zipit.tracing.sites import Site

K = TypeVar("K")

BYTES = 256 * 2**20
"""How much the features of one part of a batch may take. A batch is divided into parts of so many images."""


ROWS = 128
"""Rows of a covariance that are computed at once, up to the diagonal."""


class Covariance:
    """A covariance that is summed up from parts of the data.

    Samples are taken relative to the mean of the first part, multiplied in their own precision and summed in float64,
    so that large means cost no digits.
    """

    def __init__(self) -> None:
        self.count = 0
        self.centre: Any = None
        self.sum: Any = 0
        self.outer: Any = None

    def add(self, x: Tensor) -> None:
        """Add samples, float32 or float64 [O, S]."""
        if self.centre is None:
            self.centre = x.mean(1, dtype=torch.float64).to(x.dtype)[:, None]
        x = x - self.centre
        self.count += x.shape[1]
        self.sum += x.sum(1, dtype=torch.float64)
        if self.outer is None:
            self.outer = x.new_zeros(len(x), len(x), dtype=torch.float64)
        for start in range(0, len(x), ROWS):  # the half above the diagonal is the same
            stop = min(start + ROWS, len(x))
            self.outer[start:stop, :stop] += x[start:stop] @ x[:stop].T

    def value(self) -> Tensor:
        """Return the covariance, float64 [O, O]."""
        mean = self.sum / self.count
        half = self.outer.tril()
        return (half + half.tril(-1).T) / self.count - torch.outer(mean, mean)

    def moment(self) -> Tensor:
        """Return the mean of the products of the features, float64 [O, O]."""
        mean = self.sum / self.count + self.centre[:, 0].double()
        return self.value() + torch.outer(mean, mean)


@torch.no_grad()
def observe(
    models: Sequence[nn.Module],
    batches: Iterable[Any],
    sites: Mapping[K, Site],
    advance: Callable[[int], object] = lambda number: None,
) -> dict[K, Covariance]:
    """Sum up the covariance of the features of all models at each site.

    Args:
        models: Models of one architecture, in eval mode.
        batches: Input tensors [B, ...], or tuples that begin with one.
        sites: The sites, by any key, such as the number of their group.
        advance: A function that is told the number of images that are done.

    Returns:
        The covariance for each site, with the features of the first model first.

    Raises:
        InputError: There is no data, or less than two samples.
        PlmError: Features are not finite.
    """
    sums = {number: Covariance() for number in sites}
    images = 0
    for batch in batches:
        x = inputs_of(batch)
        images = images or _images_at_once(models, x, sites)
        for part in x.split(images):
            seen = [_features(model, part, sites) for model in models]
            for number, site in sites.items():
                both = torch.cat([features[number] for features in seen])
                if not both.isfinite().all():
                    side = "output" if site.output else "input"
                    raise PlmError(f"the {side} of module {site.module!r} has values that are not finite")
                sums[number].add(both)
            advance(len(part))
    if not sums or not all(total.count for total in sums.values()):
        raise InputError("batches has no data; at least one input is needed")
    if any(total.count < 2 for total in sums.values()):
        raise InputError("batches has a single sample for some features; several images are needed")
    return sums


def covariances(models: Sequence[nn.Module], batches: Iterable[Any], sites: Mapping[int, Site]) -> dict[int, Tensor]:
    """Return the covariance of the features of all models at each site, float64 [O, O], see `observe`."""
    return {number: total.value() for number, total in observe(models, batches, sites).items()}


def inputs_of(batch: Any) -> Tensor:
    """Return the inputs of a batch, which may be a tuple or list that begins with them."""
    x = batch[0] if isinstance(batch, list | tuple) and batch else batch
    if not isinstance(x, Tensor) or x.ndim < 2 or not len(x):
        what = f"{list(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
        raise InputError(f"batches has an element that is {what}; tensors [batch, ...] are expected")
    if not x.isfinite().all():
        raise InputError("batches has values that are not finite")
    return x


def _images_at_once(models: Sequence[nn.Module], batch: Tensor, sites: Mapping[K, Site]) -> int:
    """Return the number of images whose features take little memory."""
    one = sum(x.nbytes for x in _features(models[0], batch[:1], sites).values())
    return max(BYTES // max(one * len(models), 1), 1)


def _features(model: nn.Module, x: Tensor, sites: Mapping[K, Site]) -> dict[K, Tensor]:
    """Return the features of one model at each site, [n, S], in float32 or better."""
    found: dict[K, Tensor] = {}

    def keep(number: K, site: Site, value: Any) -> None:
        value = value if isinstance(value, Tensor) else value[0]  # of a tuple, or of an output of transformers
        if value.ndim != site.rank:
            raise PlmError(f"module {site.module!r} has a tensor {list(value.shape)}; rank {site.rank} is expected")
        places = torch.from_numpy(site.places).to(value.device)
        flat = value.movedim(site.dim, 0).flatten(1)
        flat = flat.to(torch.promote_types(flat.dtype, torch.float32))
        found[number] = torch.cat([flat.index_select(0, row) for row in places], 1)

    with ExitStack() as stack:
        for number, site in sites.items():
            module = model.get_submodule(site.module)
            if site.output:
                hook = module.register_forward_hook(lambda m, args, out, n=number, s=site: keep(n, s, out))
            else:
                hook = module.register_forward_pre_hook(
                    lambda m, args, kwargs, n=number, s=site: keep(
                        n, s, args[0] if args else next(iter(kwargs.values()))
                    ),
                    with_kwargs=True,
                )
            stack.callback(hook.remove)
        weight = next(model.parameters())
        model(x.to(weight.device, weight.dtype) if x.is_floating_point() else x.to(weight.device))
    return found
