"""What happens at a block: hooks that merge what goes into its parts and unmerge what comes out of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from plm_core.errors import NotSupported
from tome.diffusion.state import Merging, Options, backward_pass
from tome.matching import Matching, rows

Args = tuple[Any, ...]
Kwargs = Mapping[str, Any]
Given = tuple[Args, dict[str, Any]]
Hook = tuple[nn.Module, Callable[..., Any] | None, Callable[..., Any] | None]
"""A module, what happens to its arguments (with keywords), what happens to its output."""


@dataclass(eq=False)
class Site:
    """What the hooks of one block share; its methods are those hooks."""

    merging: Merging
    path: str
    level: int
    """How often the tokens were halved in height and width."""
    found: Matching | None = None
    backward: int = -1
    """The backward pass in which the block is computed again; -1 for none."""
    chunk: int = 0
    """The sample that the next part of a feed-forward in chunks starts with."""

    @property
    def matching(self) -> Matching | None:
        """Which tokens merge in the block that is under way; None for none.

        Raises:
            NotSupported: A part of it is computed again without the block, whose call is not known then.
        """
        if self.backward != backward_pass():
            raise NotSupported(f"a part of {self.path} is computed again in backward; checkpoint whole blocks instead")
        return self.found

    def enter(self, block: nn.Module, args: Args, kwargs: Kwargs) -> None:
        """Before the block: match its input, the residual stream."""
        x = args[0] if args else kwargs["hidden_states"]
        self.found = self.merging.matching(self.path, self.level, x)
        self.backward = backward_pass()
        self.chunk = 0

    def before_attention(self, attention: nn.Module, args: Args, kwargs: Kwargs) -> Given | None:
        """Self- or cross-attention: merge the queries, and the keys and values if they are of the image."""
        if self.matching is None:
            return None
        given = _named(args, kwargs)
        of_image = given.get("encoder_hidden_states") is None
        if not of_image and given.get("ip_adapter_masks") is not None:  # self-attention gets them too, and ignores them
            raise NotSupported("ip_adapter_masks need every token in its place; turn merge_crossattn off")
        given["hidden_states"] = merge(self.matching, given["hidden_states"])
        given["attention_mask"] = follow(given.get("attention_mask"), self.matching, queries=True, keys=of_image)
        return (), given

    def before_keys(self, attention: nn.Module, args: Args, kwargs: Kwargs) -> Given | None:
        """Self-attention with ``kv_only``: all tokens ask the merged ones."""
        given = _named(args, kwargs)
        if self.matching is None or given.get("encoder_hidden_states") is not None:
            return None
        _refuse_fused(attention)
        given["encoder_hidden_states"] = merge(self.matching, given["hidden_states"])
        given["attention_mask"] = follow(given.get("attention_mask"), self.matching, queries=False, keys=True)
        return (), given

    def before_joint(self, attention: nn.Module, args: Args, kwargs: Kwargs) -> Given | None:
        """Attention of text and image together: merge the image."""
        if self.matching is None:
            return None
        given = _named(args, kwargs)
        given["hidden_states"] = merge(self.matching, given["hidden_states"])
        return self.before_rotary(attention, (), given)

    def before_rotary(self, attention: nn.Module, args: Args, kwargs: Kwargs) -> Given | None:
        """Joint attention of what is merged already: each token has its destination's position."""
        if self.matching is None:
            return None
        given = _named(args, kwargs)
        if given.get("attention_mask") is not None:
            raise NotSupported(f"attention_mask in the joint attention of {self.path}")
        if given.get("image_rotary_emb") is not None:
            given["image_rotary_emb"] = tuple(positions(table, self.matching) for table in given["image_rotary_emb"])
        return (), given

    def after_attention(self, attention: nn.Module, args: Args, output: Any) -> Any:
        """Unmerge the image; joint attention gives image and text, and the image's IP-Adapter if there is one."""
        if self.matching is None:
            return output
        if isinstance(output, tuple):
            return tuple(part if i == 1 else unmerge(self.matching, part) for i, part in enumerate(output))
        return unmerge(self.matching, output)

    def before_projection(self, projection: nn.Module, args: Args, kwargs: Kwargs) -> Given | None:
        """The keys' or values' linear layer in joint attention, with ``kv_only``: merge the image."""
        return None if self.matching is None else ((merge(self.matching, args[0]), *args[1:]), dict(kwargs))

    def check_projections(self, attention: nn.Module, args: Args, kwargs: Kwargs) -> None:
        """Joint attention with ``kv_only``: those linear layers must be in use."""
        _refuse_fused(attention)

    def before_mlp(self, mlp: nn.Module, args: Args, kwargs: Kwargs) -> Given | None:
        """MLP, maybe in chunks of samples: merge."""
        if self.matching is None:
            return None
        return (merge(self._of_chunk(args[0]), args[0]), *args[1:]), dict(kwargs)

    def after_mlp(self, mlp: nn.Module, args: Args, output: Tensor) -> Tensor:
        """MLP, or the linear layer that ends it: unmerge."""
        if self.matching is None:
            return output
        output = unmerge(self._of_chunk(output), output)
        self.chunk += output.shape[0]
        return output

    def _of_chunk(self, x: Tensor) -> Matching:
        """The matching of the samples that x has."""
        assert self.matching is not None
        parts = (self.matching.kept, self.matching.merged, self.matching.into)
        if x.shape[0] == parts[0].shape[0]:
            return self.matching
        kept, merged, into = (part[self.chunk : self.chunk + x.shape[0]] for part in parts)
        return Matching(kept, merged, into)

    def after_norm(self, norm: nn.Module, args: Args, output: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The norm before attention and MLP side by side: merge for both."""
        return output if self.matching is None else (merge(self.matching, output[0]), *output[1:])


def hooks(site: Site, block: Any, options: Options) -> list[Hook]:
    """What to hang on a block of a known kind; nothing if it has nothing of what is to be merged."""
    wanted = _KINDS[kind(block)](site, block, options)
    return [(block, site.enter, None), *wanted] if wanted else []


def kind(module: nn.Module) -> str:
    """The kind of block that a module is, by the name of its class as diffusers has it; empty for no block."""
    return next((cls.__name__ for cls in type(module).__mro__ if cls.__name__ in _KINDS), "")


def _basic(site: Site, block: Any, options: Options) -> list[Hook]:
    found: list[Hook] = []
    if options.merge_attn and options.kv_only:
        found.append((block.attn1, site.before_keys, None))
    elif options.merge_attn:
        found.append((block.attn1, site.before_attention, site.after_attention))
    if options.merge_crossattn and block.attn2 is not None:
        found.append((block.attn2, site.before_attention, site.after_attention))
    if options.merge_mlp:
        found.append((block.ff, site.before_mlp, site.after_mlp))
    return found


def _joint(site: Site, block: Any, options: Options) -> list[Hook]:
    found: list[Hook] = []
    for attention in (block.attn, getattr(block, "attn2", None)):
        if attention is not None and options.merge_attn and options.kv_only:
            found.append((attention, site.check_projections, None))
            found += [(linear, site.before_projection, None) for linear in (attention.to_k, attention.to_v)]
        elif attention is not None and options.merge_attn:
            found.append((attention, site.before_joint, site.after_attention))
    if options.merge_mlp:
        found.append((block.ff, site.before_mlp, site.after_mlp))
    return found


def _single(site: Site, block: Any, options: Options) -> list[Hook]:
    """Attention and MLP side by side, between one norm and one linear layer."""
    if options.merge_attn and options.merge_mlp:
        return [
            (block.norm, None, site.after_norm),
            (block.attn, site.before_rotary, None),
            (block.proj_out, None, site.after_mlp),
        ]
    if options.merge_attn:
        return [(block.attn, site.before_joint, site.after_attention)]
    if options.merge_mlp:
        return [(block.proj_mlp, site.before_mlp, None), (block.act_mlp, None, site.after_mlp)]
    return []


_KINDS: dict[str, Callable[[Site, Any, Options], list[Hook]]] = {
    "BasicTransformerBlock": _basic,
    "FluxSingleTransformerBlock": _single,
    "FluxTransformerBlock": _joint,
    "JointTransformerBlock": _joint,
}
KINDS = tuple(_KINDS)


def merge(matching: Matching, x: Tensor) -> Tensor:
    """[B, text + N, C] -> [B, text + n, C].

    Raises:
        NotSupported: There are fewer tokens than were matched: a chunk of them.
    """
    text = x.shape[1] - matching.kept.shape[1] - matching.merged.shape[1]
    if text < 0:
        raise NotSupported("merge_mlp needs all tokens of a sample at once; chunk the feed-forward along dim=0")
    return torch.cat([x[:, :text], matching.merge(x[:, text:])], 1) if text else matching.merge(x)


def unmerge(matching: Matching, x: Tensor) -> Tensor:
    """[B, text + n, C] -> [B, text + N, C]."""
    text = x.shape[1] - matching.kept.shape[1]
    return torch.cat([x[:, :text], matching.unmerge(x[:, text:])], 1) if text else matching.unmerge(x)


def follow(mask: Tensor | None, matching: Matching, queries: bool, keys: bool) -> Tensor | None:
    """A mask [B or B * heads, ..., queries or 1, keys] for merged tokens: each counts as its destination does."""
    if mask is None:
        return None
    kept = matching.kept.repeat_interleave(max(1, mask.shape[0] // matching.kept.shape[0]), 0)
    tokens = kept.shape[1] + matching.merged.shape[1]
    for dim, wanted in ((-1, keys), (-2, queries)):
        if wanted and mask.ndim > 2 and mask.shape[dim] == tokens:
            mask = rows(mask.movedim(dim, 1).expand(len(kept), *[-1] * (mask.ndim - 1)), kept).movedim(1, dim)
    return mask


@dataclass(frozen=True)
class PerSample:
    """A table of rotary positions [B, S, D] where diffusers expects [S, D], and indexes it [None, :, None, :]."""

    table: Tensor

    def __getitem__(self, index: Any) -> Tensor:
        every = slice(None)
        if index != (None, every, None, every):  # another layout of heads would get wrong positions
            raise NotSupported(f"rotary positions indexed by {index}: diffusers changed, tome does not know this form")
        return self.table[:, :, None]


def positions(table: Tensor, matching: Matching) -> Tensor | PerSample:
    """The rows of a table of rotary positions [text + N, D] that the text and the tokens left have."""
    text = table.shape[0] - matching.kept.shape[1] - matching.merged.shape[1]
    batch = matching.kept.shape[0]
    places = torch.arange(text, device=matching.kept.device).expand(batch, -1)
    chosen = table[torch.cat([places, matching.kept + text], 1).to(table.device)]
    return chosen[0] if batch == 1 else PerSample(chosen)


def _named(args: Args, kwargs: Kwargs) -> dict[str, Any]:
    """The arguments of an attention of diffusers, by name."""
    return dict(zip(("hidden_states", "encoder_hidden_states", "attention_mask"), args, strict=False)) | dict(kwargs)


def _refuse_fused(attention: Any) -> None:
    if getattr(attention, "fused_projections", False):
        raise NotSupported("kv_only needs queries, keys and values projected apart; call unfuse_qkv_projections()")
