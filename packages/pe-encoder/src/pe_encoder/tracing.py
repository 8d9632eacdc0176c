"""The question whether a program is being made of the model, which then must not depend on values of its tensors."""

from __future__ import annotations

import torch


def is_traced() -> bool:
    """Return whether the model runs to be compiled, exported or traced, and not for its output."""
    return bool(torch.compiler.is_compiling() or torch.compiler.is_exporting() or torch._C._get_tracing_state())
