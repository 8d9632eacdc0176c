"""The text tower of the Perception Encoder: a causal transformer whose last token stands for the text.

It has CLIP's architecture (arXiv 2504.13181, section 2). The end of a text is its largest id, and no token sees those
after it. So for inference nothing behind an end is computed, what several texts begin with is computed once (see
`pe_encoder.prefixes`), and the last block runs for the ends only. The outputs are the same. A training, which needs the
blocks as they are, only cuts a batch behind its last end.

Shapes: B batch, L tokens of a text with its padding, C channels, E width of the embedding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pe_encoder.arguments import check_arguments
from pe_encoder.layers import EPS, Block, initialise, run_block
from pe_encoder.prefixes import batch_of, run_blocks
from pe_encoder.tracing import is_traced
from plm_core import InputError
from plm_core.blocks import take_rows

AT_ONCE = 512
"""The most texts that run together for inference: enough for large products, and no more memory than they need."""


class TextTower(nn.Module):
    """A text tower of the Perception Encoder.

    Args:
        context_length: The most tokens of a text, with its start and its end.
        width: C, the number of channels.
        heads: Number of attention heads.
        layers: Number of blocks.
        output_dim: E, the width of the embedding.
        vocab_size: Number of ids. The largest is the end of a text.
        mlp_ratio: Ratio of the MLPs' hidden width to ``width``.
        ls_init_value: Initial layer scale; None for no layer scale.
        device: Device of the parameters.
        dtype: Data type of the parameters.

    Raises:
        InputError: An argument is out of its range, or two contradict each other.
    """

    def __init__(
        self,
        context_length: int = 77,
        width: int = 512,
        heads: int = 8,
        layers: int = 12,
        output_dim: int = 512,
        vocab_size: int = 49408,
        mlp_ratio: float = 4.0,
        ls_init_value: float | None = None,
        *,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        check_arguments(locals())
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        if width % heads:
            raise InputError(f"width {width} is not allowed with heads {heads}: each head needs as many channels")
        self.context_length = context_length
        self.vocab_size = vocab_size
        self.num_features = self.embed_dim = width
        self.output_dim = output_dim
        self.grad_checkpointing = False
        self.token_embedding = nn.Embedding(vocab_size, width, **dd)
        self.pos_embed = nn.Parameter(torch.empty(1, context_length, width, **dd))
        self.blocks = nn.ModuleList(
            Block(width, heads, mlp_ratio, ls_init_value, causal=True, **dd) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width, EPS, **dd)
        self.head = nn.Linear(width, output_dim, bias=False, **dd)
        if not self.pos_embed.is_meta:
            self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """Initialise the parameters as CLIP does. The original leaves two of them to the checkpoint."""
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.pos_embed, std=0.01)
        nn.init.normal_(self.head.weight, std=self.embed_dim**-0.5)
        initialise(self)

    def check_ids(self, ids: Tensor) -> None:
        """Raise an InputError unless ``ids`` are texts for this tower: int64 [B, L], L at most the context.

        Their values are compared with the vocabulary unless a program is being made of the model.
        """
        if ids.ndim != 2 or ids.dtype not in (torch.int64, torch.int32) or not 0 < ids.shape[1] <= self.context_length:
            raise InputError(
                f"text is {str(ids.dtype).removeprefix('torch.')} {list(ids.shape)}; int64 [batch, 1 to "
                f"{self.context_length}] is expected, as pe_encoder.tokenizer({self.context_length}) returns it"
            )
        if ids.numel() and not (ids.is_meta or is_traced()):
            low, high = (int(value) for value in ids.aminmax())
            if low < 0 or high >= self.vocab_size:
                raise InputError(f"text has ids from {low} to {high}; 0 to {self.vocab_size - 1} is allowed")

    def ends(self, ids: Tensor) -> Tensor:
        """Return the place of each text's end, the first of its largest ids: [B, L] -> [B]."""
        return ids.argmax(-1)

    def forward(self, ids: Tensor) -> Tensor:
        """Embed texts.

        Args:
            ids: int64 [B, L], each text from its start to its end, padded with smaller ids than that of the end.

        Returns:
            [B, E], not normalised.
        """
        self.check_ids(ids)
        if self._shares(ids):
            return self._embed(ids)
        ends = self.ends(ids)
        if ids.shape[0] and not (ids.is_meta or is_traced()):
            ids = ids[:, : int(ends.max()) + 1]
        x = self.token_embedding(ids) + self.pos_embed[:, : ids.shape[1]]
        for block in self.blocks:
            x = run_block(block, x, None, self.grad_checkpointing)
        return self.head(self.norm(take_rows(x, ends[:, None])[:, 0]))

    def _shares(self, ids: Tensor) -> bool:
        """Return whether texts can be embedded by what they do not share: no training, and nothing looks at a block."""
        blocks: Any = self.blocks
        plain = all(type(b) is Block and not (b._forward_hooks or b._forward_pre_hooks) for b in blocks)
        needs_gradients = self.training or (torch.is_grad_enabled() and self.head.weight.requires_grad)
        return plain and bool(ids.numel()) and not (needs_gradients or ids.is_meta or is_traced())

    def _embed(self, ids: Tensor) -> Tensor:
        beyond = torch.arange(ids.shape[1], device=ids.device) > self.ends(ids)[:, None]
        texts, origin = ids.masked_fill(beyond, 0).unique(dim=0, return_inverse=True)
        embeddings = []
        for part in texts.split(AT_ONCE):
            batch = batch_of(part, self.ends(part))
            x = self.token_embedding(batch.tokens) + self.pos_embed[0, batch.depths]
            embeddings.append(self.head(self.norm(run_blocks(list(self.blocks), x, batch))))
        return torch.cat(embeddings)[origin]
