"""The settings of `tome.diffusion.apply`, and what a model remembers between its blocks and its calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from plm_core.errors import InputError, NotSupported
from tome.diffusion.matching import check_count, draw, match
from tome.matching import Matching
from tome.schedule import warn

Ratio = float | tuple[float, float] | Callable[[float], float]
"""A share of tokens; (first, last) for one that changes linearly over the denoising; or a function of its progress,
which is 0 at pure noise and 1 at the image."""

_NOTE = "tome_matchings"
"""The attribute of a block's input that says what was merged."""


@dataclass(frozen=True)
class Options:
    """The arguments of `tome.diffusion.apply`."""

    ratio: Ratio
    max_downsample: int | None
    sx: int
    sy: int
    use_rand: bool
    merge_attn: bool
    merge_crossattn: bool
    merge_mlp: bool
    kv_only: bool
    reuse_steps: int
    share: bool
    seed: int | torch.Generator | None

    def __post_init__(self) -> None:
        for name in ("sx", "sy", "reuse_steps") + (() if self.max_downsample is None else ("max_downsample",)):
            self._set(name, check_count(name, getattr(self, name)))
        for name in ("use_rand", "merge_attn", "merge_crossattn", "merge_mlp", "kv_only", "share"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name} is {getattr(self, name)!r}, neither True nor False")
        self._set("ratio", self._parsed(self.ratio))
        if isinstance(self.seed, Integral) and not isinstance(self.seed, bool):
            self._set("seed", int(self.seed))
        elif self.seed is not None and not isinstance(self.seed, torch.Generator):
            raise InputError(f"seed is {self.seed!r}; it is an integer, a torch.Generator or None")
        if not (self.merge_attn or self.merge_crossattn or self.merge_mlp):
            raise InputError("merge_attn, merge_crossattn and merge_mlp are all off: there is nothing to merge")
        if self.kv_only and not self.merge_attn:
            raise InputError("kv_only is about self-attention, but merge_attn is off")

    def _parsed(self, ratio: Any) -> Ratio:
        if callable(ratio):
            return ratio
        if not isinstance(ratio, tuple | list):
            return self._check_ratio(ratio)
        if len(ratio) != 2:
            raise InputError(f"ratio is {ratio}; a tuple has two numbers, for the first and the last step")
        return self._check_ratio(ratio[0]), self._check_ratio(ratio[1])

    def _set(self, name: str, value: object) -> None:
        """Python's own for what may have been NumPy's or a list."""
        object.__setattr__(self, name, value)

    @property
    def changes(self) -> bool:
        """The ratio is not the same at all steps."""
        return not isinstance(self.ratio, float)

    def ratio_at(self, progress: float) -> float:
        """The ratio at a time between 0, pure noise, and 1, the image.

        Raises:
            InputError: The function that was given for it returned what is not possible.
        """
        if callable(self.ratio):
            return self._check_ratio(self.ratio(progress))
        first, last = self.ratio if isinstance(self.ratio, tuple) else (self.ratio, self.ratio)
        return first + (last - first) * progress

    def _check_ratio(self, ratio: Any) -> float:
        limit = 1 - 1 / (self.sx * self.sy)
        if isinstance(ratio, bool) or not isinstance(ratio, Real) or not 0 <= float(ratio) <= limit + 1e-9:
            raise InputError(
                f"ratio is {ratio!r}, not a number from 0 to {limit:.4g}: "
                f"one token of each window of sx x sy = {self.sx} x {self.sy} stays"
            )
        return float(ratio)


@dataclass(eq=False)
class Merging:
    """All that one model remembers: its settings, and what holds for the call that is under way."""

    options: Options
    model: str
    parameters: tuple[str, ...]
    """Of the model's forward."""
    patch: int
    """Pixels of the latent in a row of one token, at level 0."""
    noise: float
    """The timestep of pure noise."""
    handles: list[RemovableHandle] = field(default_factory=list)
    size: tuple[int, int] | None = None
    """Rows and columns of tokens at level 0."""
    ratio: float = 0.0
    timestep: float | None = None
    first: tuple[float, Tensor] | None = None
    """Timestep and latents that the denoising began with."""
    calls: int = 0
    """Since the denoising began."""
    matchings: dict[tuple[Any, ...], Matching] = field(default_factory=dict)
    generator: torch.Generator | None = None
    warned: bool = False

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # reads the values of tensors
    def start(self, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Before each call of the model."""
        if backward_pass() != -1:
            raise NotSupported(
                f"{self.model} is computed again in backward, and would merge other tokens; checkpoint its blocks "
                "instead: enable_gradient_checkpointing()"
            )
        given = dict(zip(self.parameters, args, strict=False)) | dict(kwargs)
        size, options = self._size(given), self.options
        if options.changes or options.reuse_steps > 1:
            before, self.timestep = self.timestep, float(torch.as_tensor(given["timestep"]).flatten()[0])
            self._begin(before, self.timestep, given.get("sample", given.get("hidden_states")))
            self.ratio = options.ratio_at(min(max(1 - self.timestep / self.noise, 0.0), 1.0))
        else:
            self.ratio = options.ratio_at(0.0)
        if self.calls % options.reuse_steps == 0 or size != self.size:
            self.matchings.clear()
        self.size = size
        self.calls += 1

    def _begin(self, before: float | None, timestep: float, latents: Any) -> None:
        """Start anew if this is another image: a timestep above the last, or the first one again with other latents.

        The latter happens with models of one step. The same latents are the other half of classifier-free guidance;
        a timestep twice later on is a scheduler's that looks twice.
        """
        if self.options.reuse_steps == 1:
            return
        above = before is None or timestep > before
        first = self.first if self.first and self.first[0] == timestep else None
        if above or first:
            seen = latents.detach().to("cpu", torch.float32, copy=True)
            if above or (first and not torch.equal(seen, first[1])):
                self.first, self.calls = (timestep, seen), 0

    def _size(self, given: Mapping[str, Any]) -> tuple[int, int]:
        latents = given.get("sample", given.get("hidden_states"))
        if latents is not None and latents.ndim in (4, 5):
            return latents.shape[-2] // self.patch, latents.shape[-1] // self.patch
        if latents is not None and latents.ndim == 3 and given.get("img_ids") is not None:
            return size_of_ids(given["img_ids"].flatten(0, -2)[: latents.shape[1]])
        shape = None if latents is None else list(latents.shape)
        raise NotSupported(f"{self.model} was called with latents {shape}: their rows and columns are not known")

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # draws from a generator, and keeps what it finds
    def matching(self, path: str, level: int, x: Tensor) -> Matching | None:
        """Which tokens of a block's input x [B, N, C] merge; None for none.

        A checkpointed block is computed again in backward, maybe after other calls of the model, and gets the same
        tensor as input then: so that is what knows what was merged.
        """
        key = (self, path)
        if backward_pass() != -1:
            known = vars(x).get(_NOTE, {})
            if key not in known:
                raise NotSupported(
                    f"block {path} is computed again in backward, and which tokens it merged is not known; checkpoint "
                    "single blocks, with use_reentrant=False: enable_gradient_checkpointing()"
                )
            return known[key]
        found = self._matching(path, level, x)
        if torch.is_grad_enabled():
            vars(x).setdefault(_NOTE, {})[key] = found
        return found

    def _matching(self, path: str, level: int, x: Tensor) -> Matching | None:
        """In a call of the model; what was matched already is not again."""
        if self.size is None:
            raise InputError(f"call the {self.model}, not its block {path}: the size of the latents is not known")
        h, w = (-(-length // 2**level) for length in self.size)
        if x.ndim != 3 or x.shape[1] != h * w:
            raise NotSupported(f"block {path} has tokens {list(x.shape)}, not [batch, {h} x {w}, channels]")
        options = self.options
        r = int(h * w * self.ratio)
        if r <= 0 or h < options.sy or w < options.sx:
            return None
        key = (level if options.share else path, x.shape[0], x.device)
        if key not in self.matchings:
            window = (w, h, options.sx, options.sy)
            choice = draw(*window, self._generator(x.device), x.device) if self._random(x.shape[0]) else None
            self.matchings[key] = match(x, *window, r, choice)
        return self.matchings[key]

    def _random(self, batch: int) -> bool:
        if self.options.use_rand and batch % 2 and not self.warned:
            self.warned = True
            warn(
                f"{self.model} has a batch of {batch}: as in the original, an odd batch turns use_rand off, since the "
                "halves of classifier-free guidance are probably not in one batch and would get different tokens"
            )
        return self.options.use_rand and batch % 2 == 0

    def _generator(self, device: torch.device) -> torch.Generator:
        seed = self.options.seed
        if isinstance(seed, torch.Generator):
            return seed
        home = device if device.type == "cuda" and seed is None else torch.device("cpu")
        if self.generator is None or self.generator.device != home:
            self.generator = torch.Generator(home)
            if seed is not None:
                self.generator.manual_seed(seed)
            else:
                self.generator.set_state(
                    torch.cuda.get_rng_state(home) if home.type == "cuda" else torch.get_rng_state()
                )
        return self.generator


def backward_pass() -> int:
    """Which backward pass this thread is in; -1 for none, and in compiled code, where blocks are not computed again."""
    return -1 if torch.compiler.is_compiling() else torch._C._current_graph_task_id()


def size_of_ids(ids: Tensor) -> tuple[int, int]:
    """Rows and columns of packed tokens, from Flux's ids [N, 3]: image, row and column of each.

    Raises:
        NotSupported: They are not those of one image, row by row.
    """
    row, column = (ids[:, i] - ids[0, i] for i in (1, 2))
    w = int(column.max()) + 1
    if not torch.equal((row * w + column).long(), torch.arange(len(ids), device=ids.device)):
        raise NotSupported("img_ids are not those of one image, row by row")
    return len(ids) // w, w
