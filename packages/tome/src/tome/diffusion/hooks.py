"""The hooks of a block: they merge the inputs of its parts and unmerge their outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from plm_core.errors import NotSupported
from tome.diffusion.state import MergingState, Options, backward_pass
from tome.matching import Matching, take_tokens

Args = tuple[Any, ...]
Kwargs = Mapping[str, Any]
NewArguments = tuple[Args, dict[str, Any]]
Hook = tuple[nn.Module, Callable[..., Any] | None, Callable[..., Any] | None]
"""(module, forward pre-hook with keyword arguments or None, forward hook or None)."""


@dataclass(eq=False)
class BlockHooks:
    """The hooks of one block, as methods, and what they share."""

    state: MergingState
    path: str
    level: int
    """How often the tokens were halved in height and width."""
    current: Matching | None = None
    """The matching of the last call; `matching` checks that it is still the right one."""
    backward: int = -1
    """The backward pass that recomputes the block; -1 for none."""
    chunk: int = 0
    """The first sample of the next part, where a feed-forward runs in chunks."""

    @property
    def matching(self) -> Matching | None:
        """The matching for the current call of the block; None if nothing merges.

        Raises:
            NotSupported: A part of the block is recomputed without the block, so the call is not known.
        """
        if self.backward != backward_pass():
            raise NotSupported(f"a part of {self.path} is recomputed in backward; checkpoint whole blocks instead")
        return self.current

    def enter(self, block: nn.Module, args: Args, kwargs: Kwargs) -> None:
        """Match the tokens of the block's input, the residual stream, before the block runs."""
        x = args[0] if args else kwargs["hidden_states"]
        self.current = self.state.matching(self.path, self.level, x)
        self.backward = backward_pass()
        self.chunk = 0

    def before_attention(self, attention: nn.Module, args: Args, kwargs: Kwargs) -> NewArguments | None:
        """Merge the queries of self- or cross-attention, and the keys and values if they come from the image."""
        if self.matching is None:
            return None
        arguments = _by_name(args, kwargs)
        of_image = arguments.get("encoder_hidden_states") is None
        # self-attention gets these masks too, and ignores them
        if not of_image and arguments.get("ip_adapter_masks") is not None:
            raise NotSupported("ip_adapter_masks need every token in its place; turn merge_crossattn off")
        arguments["hidden_states"] = merge(self.matching, arguments["hidden_states"])
        mask = arguments.get("attention_mask")
        arguments["attention_mask"] = merge_mask(mask, self.matching, queries=True, keys=of_image)
        return (), arguments

    def before_keys(self, attention: nn.Module, args: Args, kwargs: Kwargs) -> NewArguments | None:
        """Merge the keys and values of self-attention but not its queries (``kv_only``)."""
        arguments = _by_name(args, kwargs)
        if self.matching is None or arguments.get("encoder_hidden_states") is not None:
            return None
        _refuse_fused(attention)
        arguments["encoder_hidden_states"] = merge(self.matching, arguments["hidden_states"])
        mask = arguments.get("attention_mask")
        arguments["attention_mask"] = merge_mask(mask, self.matching, queries=False, keys=True)
        return (), arguments

    def before_joint(self, attention: nn.Module, args: Args, kwargs: Kwargs) -> NewArguments | None:
        """Merge the image in an attention of text and image together."""
        if self.matching is None:
            return None
        arguments = _by_name(args, kwargs)
        arguments["hidden_states"] = merge(self.matching, arguments["hidden_states"])
        return self.before_rotary(attention, (), arguments)

    def before_rotary(self, attention: nn.Module, args: Args, kwargs: Kwargs) -> NewArguments | None:
        """Give each merged token in a joint attention the rotary position of its destination."""
        if self.matching is None:
            return None
        arguments = _by_name(args, kwargs)
        if arguments.get("attention_mask") is not None:
            raise NotSupported(f"attention_mask in the joint attention of {self.path}")
        tables = arguments.get("image_rotary_emb")
        if tables is not None:
            arguments["image_rotary_emb"] = tuple(merge_positions(table, self.matching) for table in tables)
        return (), arguments

    def after_attention(self, attention: nn.Module, args: Args, output: Any) -> Any:
        """Unmerge the image.

        Joint attention returns the image, the text and, if there is an IP-Adapter, its output for the image.
        """
        if self.matching is None:
            return output
        if isinstance(output, tuple):
            return tuple(part if i == 1 else unmerge(self.matching, part) for i, part in enumerate(output))
        return unmerge(self.matching, output)

    def before_projection(self, projection: nn.Module, args: Args, kwargs: Kwargs) -> NewArguments | None:
        """Merge the image before the linear layer of the keys or values in joint attention (``kv_only``)."""
        return None if self.matching is None else ((merge(self.matching, args[0]), *args[1:]), dict(kwargs))

    def check_projections(self, attention: nn.Module, args: Args, kwargs: Kwargs) -> None:
        """Check that joint attention uses separate linear layers for keys and values (``kv_only``)."""
        _refuse_fused(attention)

    def before_mlp(self, mlp: nn.Module, args: Args, kwargs: Kwargs) -> NewArguments | None:
        """Merge before the MLP, which may run on chunks of the samples."""
        if self.matching is None:
            return None
        return (merge(self._of_chunk(args[0]), args[0]), *args[1:]), dict(kwargs)

    def after_mlp(self, mlp: nn.Module, args: Args, output: Tensor) -> Tensor:
        """Unmerge after the MLP, or after the linear layer that ends it."""
        if self.matching is None:
            return output
        output = unmerge(self._of_chunk(output), output)
        self.chunk += output.shape[0]
        return output

    def _of_chunk(self, x: Tensor) -> Matching:
        """Return the matching of the samples in x."""
        assert self.matching is not None
        parts = (self.matching.kept, self.matching.merged, self.matching.into)
        if x.shape[0] == parts[0].shape[0]:
            return self.matching
        kept, merged, into = (part[self.chunk : self.chunk + x.shape[0]] for part in parts)
        return Matching(kept, merged, into)

    def after_norm(self, norm: nn.Module, args: Args, output: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Merge after the norm that feeds both attention and MLP, where they run side by side."""
        return output if self.matching is None else (merge(self.matching, output[0]), *output[1:])


def hooks_for(block_hooks: BlockHooks, block: Any, options: Options) -> list[Hook]:
    """Return the hooks to register on a block of a known kind; none if it has no part that is to be merged."""
    hooks = _KINDS[block_kind(block)](block_hooks, block, options)
    return [(block, block_hooks.enter, None), *hooks] if hooks else []


def block_kind(module: nn.Module) -> str:
    """Return the kind of block that a module is, which is the name of its diffusers class; "" if it is no block."""
    return next((cls.__name__ for cls in type(module).__mro__ if cls.__name__ in _KINDS), "")


def _basic(block_hooks: BlockHooks, block: Any, options: Options) -> list[Hook]:
    hooks: list[Hook] = []
    if options.merge_attn and options.kv_only:
        hooks.append((block.attn1, block_hooks.before_keys, None))
    elif options.merge_attn:
        hooks.append((block.attn1, block_hooks.before_attention, block_hooks.after_attention))
    if options.merge_crossattn and block.attn2 is not None:
        hooks.append((block.attn2, block_hooks.before_attention, block_hooks.after_attention))
    if options.merge_mlp:
        hooks.append((block.ff, block_hooks.before_mlp, block_hooks.after_mlp))
    return hooks


def _joint(block_hooks: BlockHooks, block: Any, options: Options) -> list[Hook]:
    hooks: list[Hook] = []
    for attention in (block.attn, getattr(block, "attn2", None)):
        if attention is not None and options.merge_attn and options.kv_only:
            hooks.append((attention, block_hooks.check_projections, None))
            hooks += [(linear, block_hooks.before_projection, None) for linear in (attention.to_k, attention.to_v)]
        elif attention is not None and options.merge_attn:
            hooks.append((attention, block_hooks.before_joint, block_hooks.after_attention))
    if options.merge_mlp:
        hooks.append((block.ff, block_hooks.before_mlp, block_hooks.after_mlp))
    return hooks


def _single(block_hooks: BlockHooks, block: Any, options: Options) -> list[Hook]:
    """Return the hooks of a block with attention and MLP side by side, between one norm and one linear layer."""
    if options.merge_attn and options.merge_mlp:
        return [
            (block.norm, None, block_hooks.after_norm),
            (block.attn, block_hooks.before_rotary, None),
            (block.proj_out, None, block_hooks.after_mlp),
        ]
    if options.merge_attn:
        return [(block.attn, block_hooks.before_joint, block_hooks.after_attention)]
    if options.merge_mlp:
        return [(block.proj_mlp, block_hooks.before_mlp, None), (block.act_mlp, None, block_hooks.after_mlp)]
    return []


_KINDS: dict[str, Callable[[BlockHooks, Any, Options], list[Hook]]] = {
    "BasicTransformerBlock": _basic,
    "FluxSingleTransformerBlock": _single,
    "FluxTransformerBlock": _joint,
    "JointTransformerBlock": _joint,
}
BLOCK_KINDS = tuple(_KINDS)


def merge(matching: Matching, x: Tensor) -> Tensor:
    """Merge the image in a sequence of text and image: [B, text + N, C] -> [B, text + n, C].

    Raises:
        NotSupported: There are fewer tokens than were matched, since x is a chunk of them.
    """
    text = x.shape[1] - matching.kept.shape[1] - matching.merged.shape[1]
    if text < 0:
        raise NotSupported("merge_mlp needs all tokens of a sample at once; chunk the feed-forward along dim=0")
    return torch.cat([x[:, :text], matching.merge(x[:, text:])], 1) if text else matching.merge(x)


def unmerge(matching: Matching, x: Tensor) -> Tensor:
    """Unmerge the image in a sequence of text and image: [B, text + n, C] -> [B, text + N, C]."""
    text = x.shape[1] - matching.kept.shape[1]
    return torch.cat([x[:, :text], matching.unmerge(x[:, text:])], 1) if text else matching.unmerge(x)


def merge_mask(mask: Tensor | None, matching: Matching, queries: bool, keys: bool) -> Tensor | None:
    """Return an attention mask for merged tokens, in which each has the mask of its destination.

    Args:
        mask: [B or B * heads, ..., queries or 1, keys].
        matching: The matching of the tokens.
        queries: Whether the queries are merged.
        keys: Whether the keys are merged.
    """
    if mask is None:
        return None
    kept = matching.kept.repeat_interleave(max(1, mask.shape[0] // matching.kept.shape[0]), 0)
    tokens = kept.shape[1] + matching.merged.shape[1]
    for dim, are_merged in ((-1, keys), (-2, queries)):
        if are_merged and mask.ndim > 2 and mask.shape[dim] == tokens:
            rows = mask.movedim(dim, 1).expand(len(kept), *[-1] * (mask.ndim - 1))
            mask = take_tokens(rows, kept).movedim(1, dim)
    return mask


@dataclass(frozen=True)
class PerSampleTable:
    """A table of rotary positions [B, S, D] in place of the [S, D] that diffusers indexes by [None, :, None, :]."""

    table: Tensor

    def __getitem__(self, index: Any) -> Tensor:
        every = slice(None)
        if index != (None, every, None, every):  # with another layout of the heads, positions would be wrong
            raise NotSupported(f"rotary positions indexed by {index}: tome does not support this version of diffusers")
        return self.table[:, :, None]


def merge_positions(table: Tensor, matching: Matching) -> Tensor | PerSampleTable:
    """Return the rows of a table of rotary positions [text + N, D] for the text and the tokens that are left."""
    text = table.shape[0] - matching.kept.shape[1] - matching.merged.shape[1]
    batch = matching.kept.shape[0]
    places = torch.arange(text, device=matching.kept.device).expand(batch, -1)
    rows = table[torch.cat([places, matching.kept + text], 1).to(table.device)]
    return rows[0] if batch == 1 else PerSampleTable(rows)


def _by_name(args: Args, kwargs: Kwargs) -> dict[str, Any]:
    """Return the arguments of a diffusers attention by name."""
    names = ("hidden_states", "encoder_hidden_states", "attention_mask")
    return dict(zip(names[: len(args)], args[: len(names)], strict=True)) | dict(kwargs)


def _refuse_fused(attention: Any) -> None:
    if getattr(attention, "fused_projections", False):
        raise NotSupported("kv_only needs separate projections for q, k and v; call unfuse_qkv_projections()")
