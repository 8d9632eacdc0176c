"""The speed of a model with and without transforms, in one run and by the protocol of the ToMe paper's benchmark.

The images are random, no gradients are computed and the first quarter of the runs is discarded. The contenders take
turns, so that any other load on the machine affects all of them alike. So the speed-up is taken within each round, and
is not the ratio of two medians.
"""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from plm_core import blocks, packing
from plm_core.errors import InputError, NotSupported, PlmError
from plm_core.hookspecs import Model
from plm_core.models import create_model
from plm_core.registry import registry
from plm_core.sources import diffusers
from plm_core.sources.diffusers import Denoiser
from plm_core.tools.agreement import Agreement, agreements
from plm_core.tools.memory import memory_of, synchronize
from plm_core.transforms import applied_to, apply_all
from plm_core.utils.arguments import DEVICE
from plm_core.utils.devices import autocast, pick_device
from plm_core.utils.progress import track
from plm_core.utils.text import first_line

TOGETHER = 5
"""Number of runs that are queued on an accelerator between two synchronisations."""
BUSY = 0.3
"""The share of the median time between the quartiles from which on a machine is called busy."""


@dataclass(frozen=True)
class Timing:
    """The measurements of one contender."""

    name: str
    images_per_second: float
    """Median over the rounds."""
    milliseconds: float
    """Median time of a batch."""
    between: tuple[float, float]
    """The first and third quartile of these times, in milliseconds. On a busy machine they lie far apart."""
    speedup: float
    """Speed relative to the first contender: the median over the rounds of the ratio within a round."""
    spread: tuple[float, float]
    """The first and third quartile of these ratios: half of the rounds lie between them."""
    memory: int | None
    """Peak memory in bytes, see `memory_of`. None where it cannot be measured."""
    tokens: tuple[int, ...] | None
    """Number of tokens after each block. None for a model whose blocks are not known."""
    packed: str = ""
    """How many layers the transform ``packed`` has packed, in words; empty without it."""
    agreement: Agreement | None = None
    """How alike its answers are to the first contender's on real images, if there were any."""

    @property
    def busy(self) -> bool:
        """Whether its times lie so far apart that something else must keep the machine busy."""
        low, high = self.between
        return high - low > BUSY * self.milliseconds


def compare(
    model: nn.Module,
    stacks: Sequence[Sequence[str]],
    x: Tensor,
    runs: int = 40,
    dtype: str = "fp32",
    compiled: bool = False,
    images: Iterable[Tensor] = (),
) -> list[Timing]:
    """Time a model unchanged and with each of several stacks of transforms.

    Args:
        model: A model in eval mode, on the device of ``x``. It is not changed.
        stacks: For each further contender, the transforms to apply in order to a copy of the model, such as
            ``["tome:r=8"]`` (see `plm_core.transforms.parse`).
        x: A batch.
        runs: Timed runs per contender. The first quarter is discarded.
        dtype: fp32, or bf16 or fp16 by autocast.
        compiled: Run the contenders through ``torch.compile``.
        images: Batches of preprocessed images on which to compare the answers with those of the unchanged model.

    Raises:
        InputError: An argument is wrong, two stacks are the same, or the model cannot run on ``x``.
        PlmError: See `plm_core.transforms.apply`.
    """
    _check_arguments(model, stacks, x, runs)
    contenders = {"unchanged": model}
    for stack in stacks:
        contenders[" ".join(stack)] = apply_all(copy.deepcopy(model), stack)
    if len(contenders) != len(stacks) + 1:
        raise InputError(f"the same transforms are given twice, or none: {', '.join(map(' '.join, stacks))}")
    with torch.no_grad(), autocast(x.device, dtype):
        tokens = {name: _tokens(contender, x) for name, contender in contenders.items()}  # also warms up
        calls = {name: partial(torch.compile(c) if compiled else c, x) for name, c in contenders.items()}
        for call in calls.values() if compiled else ():
            with _one_line(model, x):
                call()
        seconds = interleaved(calls, runs, x.device)
        memory = {name: memory_of(contender, x, calls[name]) for name, contender in contenders.items()}
        agreement = agreements(contenders, images)
    first = seconds["unchanged"]
    ratios = {name: [a / b for a, b in zip(first, times, strict=True)] for name, times in seconds.items()}
    return [
        Timing(
            name=name,
            images_per_second=len(x) / statistics.median(times),
            milliseconds=1000 * statistics.median(times),
            between=_quartiles([1000 * time for time in times]),
            speedup=statistics.median(ratios[name]),
            spread=_quartiles(ratios[name]),
            memory=memory[name],
            tokens=tokens[name],
            packed=packing.report(contenders[name]) if packing.NAME in applied_to(contenders[name]) else "",
            agreement=agreement.get(name),
        )
        for name, times in seconds.items()
    ]


def _check_arguments(model: object, stacks: object, x: object, runs: object) -> None:
    """Check what `compare` is given from Python; the command line has checked its own."""
    if not isinstance(model, nn.Module):
        raise InputError(f"model is a {type(model).__name__}; it can be a torch.nn.Module")
    if not isinstance(stacks, list | tuple) or not all(isinstance(stack, list | tuple) for stack in stacks):
        raise InputError(f"stacks is {stacks!r}; it is a list of lists of transforms, such as [['tome:r=8']]")
    if not isinstance(x, Tensor):
        raise InputError(f"x is a {type(x).__name__}; it can be a torch.Tensor")
    if not isinstance(runs, int) or isinstance(runs, bool) or runs < 1:
        raise InputError(f"runs is {runs!r}; it is an integer of at least 1")


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    if len(values) == 1:
        return values[0], values[0]
    first, _, third = statistics.quantiles(values, method="inclusive")
    return first, third


def interleaved(
    calls: Mapping[str, Callable[[], object]], runs: int, device: torch.device | str = "cpu"
) -> dict[str, list[float]]:
    """Run contenders in turns, time each run and discard the first quarter.

    On an accelerator up to five runs are queued between two synchronisations and count as one run of their mean time.
    Synchronising in every run would add the time in which nothing is queued.

    Returns:
        Seconds per run for each contender. Equal positions are runs of the same round.
    """
    device = torch.device(device)
    together = 1 if device.type == "cpu" else min(TOGETHER, runs)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in track(range(max(1, runs // together)), "runs"):
        for name, call in calls.items():
            synchronize(device)
            start = time.perf_counter()
            for _ in range(together):
                call()
            synchronize(device)
            seconds[name].append((time.perf_counter() - start) / together)
    return {name: times[int(len(times) * 0.25) :] for name, times in seconds.items()}


def prepare(
    name: str, batch_size: int, device: str = DEVICE, size: int | None = None, pretrained: bool = False
) -> tuple[nn.Module, Tensor]:
    """Create a model in eval mode, and a batch of random images for it.

    Args:
        name: See `plm_core.create_model`. Or ``diffusers:org/name`` or ``diffusers:path`` for a UNet of diffusers, see
            `plm_core.sources.diffusers.create`. Its images are latents, and its text is random.
        batch_size: Number of images, or of clips for a video model.
        device: Name of the device, see `plm_core.utils.devices.pick_device`.
        size: Side of the images in pixels, or of latents. None for the model's own.
        pretrained: Load the trained weights, instead of random ones.

    Raises:
        InputError: There is no such device.
        PlmError: See `plm_core.create_model`.
    """
    where = pick_device(device)
    if is_denoiser(name):
        denoiser = Denoiser(diffusers.create(name[len(diffusers.PREFIX) :], pretrained), batch_size)
        return denoiser.eval().to(where), denoiser.random_latents(batch_size, size).to(where)
    model: Any = create_model(name, pretrained=pretrained)
    channels, *sides = _input_size(model)
    if size is not None and [size] * len(sides) != sides:
        if (getattr(model, "pretrained_cfg", None) or {}).get("fixed_input_size"):  # all others take any size
            model = create_model(name, pretrained=pretrained, img_size=size)
        sides = [size] * len(sides)
    declared = registry().all(Model).get(name.partition(".")[0])
    frames = declared.declaration.input.frames if declared else None
    shape = (batch_size, channels, *([frames] if frames else []), *sides)
    return model.eval().to(where), torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(where)


def is_denoiser(name: str) -> bool:
    """Return whether a name stands for a UNet of diffusers, which turns latents into noise and has no embedding."""
    return name.lower().startswith(diffusers.PREFIX)


def _input_size(model: Any) -> tuple[int, ...]:
    import timm.data

    size: tuple[int, ...] = timm.data.resolve_model_data_config(model)["input_size"]
    return size


def _tokens(model: nn.Module, x: Tensor) -> tuple[int, ...] | None:
    """Run the model and return the number of tokens after each block; None if its blocks are not known."""
    try:
        modules = [block.block for view in blocks.find(model).values() for block in view.blocks]
    except NotSupported:
        modules = []
    outputs: list[Any] = []
    with _hooked(modules, outputs), _one_line(model, x):
        model(x)
    tensors = [y[0] if isinstance(y, tuple) else y for y in outputs]
    return tuple(math.prod(y.shape[1:-1]) for y in tensors) or None


@contextmanager
def _one_line(model: nn.Module, x: Tensor) -> Iterator[None]:
    try:
        yield
    except PlmError:
        raise
    except (RuntimeError, ValueError, TypeError, AttributeError, AssertionError, IndexError) as e:
        why = first_line(e)
        raise InputError(f"{type(model).__name__} cannot run on {list(x.shape)}: {why}") from e


@contextmanager
def _hooked(modules: Sequence[nn.Module], outputs: list[Any]) -> Iterator[None]:
    handles = [module.register_forward_hook(lambda _, __, y: outputs.append(y)) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
