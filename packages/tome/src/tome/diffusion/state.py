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
from tome.diffusion.matching import check_count, match, random_choice
from tome.matching import Matching
from tome.warning import warn_user

Ratio = float | tuple[float, float] | Callable[[float], float]
"""A share of tokens; (first, last) for a share that changes linearly over the denoising; or a function that returns the
share for the progress of the denoising, which is 0 at pure noise and 1 at the image."""

_MATCHINGS = "tome_matchings"
"""The attribute of a block's input that holds the matchings that were made for it."""


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
        self._set("ratio", self._checked_ratio(self.ratio))
        if isinstance(self.seed, Integral) and not isinstance(self.seed, bool):
            self._set("seed", int(self.seed))
        elif self.seed is not None and not isinstance(self.seed, torch.Generator):
            raise InputError(f"seed is {self.seed!r}; it is an integer, a torch.Generator or None")
        if not (self.merge_attn or self.merge_crossattn or self.merge_mlp):
            raise InputError("merge_attn, merge_crossattn and merge_mlp are all off: there is nothing to merge")
        if self.kv_only and not self.merge_attn:
            raise InputError("kv_only is about self-attention, but merge_attn is off")

    def _checked_ratio(self, ratio: Any) -> Ratio:
        if callable(ratio):
            return ratio
        if not isinstance(ratio, tuple | list):
            return self._checked_share(ratio)
        if len(ratio) != 2:
            raise InputError(f"ratio is {ratio}; a tuple has two numbers, for the first and the last step")
        return self._checked_share(ratio[0]), self._checked_share(ratio[1])

    def _checked_share(self, ratio: Any) -> float:
        limit = 1 - 1 / (self.sx * self.sy)
        if isinstance(ratio, bool) or not isinstance(ratio, Real) or not 0 <= float(ratio) <= limit + 1e-9:
            raise InputError(
                f"ratio is {ratio!r}, not a number from 0 to {limit:.4g}: "
                f"one token of each window of sx x sy = {self.sx} x {self.sy} stays"
            )
        return float(ratio)

    def _set(self, name: str, value: object) -> None:
        """Replace a field of this frozen dataclass, such as a NumPy number by a Python one."""
        object.__setattr__(self, name, value)

    @property
    def changes(self) -> bool:
        """Whether the ratio changes from step to step."""
        return not isinstance(self.ratio, float)

    def ratio_at(self, progress: float) -> float:
        """Return the ratio at a progress from 0, pure noise, to 1, the image.

        Raises:
            InputError: The user's function returned an impossible ratio.
        """
        if callable(self.ratio):
            return self._checked_share(self.ratio(progress))
        first, last = self.ratio if isinstance(self.ratio, tuple) else (self.ratio, self.ratio)
        return first + (last - first) * progress


@dataclass(eq=False)
class MergingState:
    """Everything that one model remembers: its settings, and the state of the current call."""

    options: Options
    model: str
    """Name of the model's class."""
    parameters: tuple[str, ...]
    """Names of the parameters of the model's forward."""
    patch_size: int
    """Height and width of a token at level 0, in latent pixels."""
    noise_timestep: float
    """The timestep of pure noise."""
    handles: list[RemovableHandle] = field(default_factory=list)
    grid: tuple[int, int] | None = None
    """Rows and columns of tokens at level 0."""
    ratio: float = 0.0
    timestep: float | None = None
    first: tuple[float, Tensor] | None = None
    """Timestep and latents at the start of the current denoising."""
    calls: int = 0
    """Number of calls since the current denoising started."""
    matchings: dict[tuple[Any, ...], Matching] = field(default_factory=dict)
    generator: torch.Generator | None = None
    warned: bool = False

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # it reads the values of tensors
    def start_call(self, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Prepare for a call of the model: a forward pre-hook."""
        if backward_pass() != -1:
            raise NotSupported(
                f"{self.model} is recomputed in backward, and would merge other tokens; checkpoint its blocks "
                "instead: enable_gradient_checkpointing()"
            )
        arguments = dict(zip(self.parameters, args, strict=False)) | dict(kwargs)
        latents = arguments.get("sample", arguments.get("hidden_states"))
        grid, options = self._grid_of(latents, arguments.get("img_ids")), self.options
        if options.changes or options.reuse_steps > 1:
            before, self.timestep = self.timestep, float(torch.as_tensor(arguments["timestep"]).flatten()[0])
            self._restart_for_new_image(before, self.timestep, latents)
            self.ratio = options.ratio_at(min(max(1 - self.timestep / self.noise_timestep, 0.0), 1.0))
        else:
            self.ratio = options.ratio_at(0.0)
        if self.calls % options.reuse_steps == 0 or grid != self.grid:
            self.matchings.clear()
        self.grid = grid
        self.calls += 1

    def _restart_for_new_image(self, before: float | None, timestep: float, latents: Any) -> None:
        """Start counting calls again if this call begins another image.

        It does if its timestep is above the last one; or, in models of one step, if the timestep is again the first one
        and the latents differ from the first ones. The same latents belong to the other half of classifier-free
        guidance, and a later timestep that is repeated belongs to a scheduler that evaluates it twice.
        """
        if self.options.reuse_steps == 1:
            return
        above = before is None or timestep > before
        first = self.first if self.first and self.first[0] == timestep else None
        if above or first:
            copied = latents.detach().to("cpu", torch.float32, copy=True)
            if above or (first and not torch.equal(copied, first[1])):
                self.first, self.calls = (timestep, copied), 0

    def _grid_of(self, latents: Any, ids: Any) -> tuple[int, int]:
        if latents is not None and latents.ndim in (4, 5):
            return latents.shape[-2] // self.patch_size, latents.shape[-1] // self.patch_size
        if latents is not None and latents.ndim == 3 and ids is not None:
            return grid_of_ids(ids.flatten(0, -2)[: latents.shape[1]])
        shape = None if latents is None else list(latents.shape)
        raise NotSupported(f"{self.model} was called with latents {shape}: their rows and columns are not known")

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # it draws from a generator and stores the matching
    def matching(self, path: str, level: int, x: Tensor) -> Matching | None:
        """Return the matching of a block's input x [B, N, C]; None if nothing merges.

        A checkpointed block is recomputed in backward, possibly after other calls of the model. It then gets the same
        tensor as input, so the matching is stored on that tensor.
        """
        key = (self, path)
        if backward_pass() != -1:
            stored = vars(x).get(_MATCHINGS, {})
            if key not in stored:
                raise NotSupported(
                    f"block {path} is recomputed in backward, and which tokens it merged is not known; checkpoint "
                    "single blocks, with use_reentrant=False: enable_gradient_checkpointing()"
                )
            return stored[key]
        matching = self._matching_in_call(path, level, x)
        if torch.is_grad_enabled():
            vars(x).setdefault(_MATCHINGS, {})[key] = matching
        return matching

    def _matching_in_call(self, path: str, level: int, x: Tensor) -> Matching | None:
        """Return the matching for a block in a call of the model, made now or earlier in this call or step."""
        if self.grid is None:
            raise InputError(f"call the {self.model}, not its block {path}: the size of the latents is not known")
        h, w = (-(-length // 2**level) for length in self.grid)
        if x.ndim != 3 or x.shape[1] != h * w:
            raise NotSupported(f"block {path} has tokens {list(x.shape)}, not [batch, {h} x {w}, channels]")
        options = self.options
        r = int(h * w * self.ratio)
        if r <= 0 or h < options.sy or w < options.sx:
            return None
        key = (level if options.share else path, x.shape[0], x.device)
        if key not in self.matchings:
            window = (w, h, options.sx, options.sy)
            choice = None
            if self._is_random(x.shape[0]):
                choice = random_choice(*window, self._generator(x.device), x.device)
            self.matchings[key] = match(x, *window, r, choice)
        return self.matchings[key]

    def _is_random(self, batch_size: int) -> bool:
        if self.options.use_rand and batch_size % 2 and not self.warned:
            self.warned = True
            warn_user(
                f"{self.model} has a batch of {batch_size}: as in the original, an odd batch turns use_rand off, since "
                "the halves of classifier-free guidance are probably not in one batch and would get different tokens"
            )
        return self.options.use_rand and batch_size % 2 == 0

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
    """Return the number of the backward pass that this thread is in, or -1.

    It is always -1 in compiled code, where blocks are not recomputed.
    """
    return -1 if torch.compiler.is_compiling() else torch._C._current_graph_task_id()


def grid_of_ids(ids: Tensor) -> tuple[int, int]:
    """Return rows and columns of packed tokens, from Flux's ids [N, 3]: the image, row and column of each token.

    Raises:
        NotSupported: The ids are not those of one image, row by row.
    """
    row, column = (ids[:, i] - ids[0, i] for i in (1, 2))
    w = int(column.max()) + 1
    if not torch.equal((row * w + column).long(), torch.arange(len(ids), device=ids.device)):
        raise NotSupported("img_ids are not those of one image, row by row")
    return len(ids) // w, w
