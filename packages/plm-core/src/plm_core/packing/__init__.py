"""The transform ``packed``: linear layers and convolutions as fast as the processor can compute them.

torch multiplies float32 matrices on x86 by MKL, which does not use all of AMD's processors. oneDNN, which torch
ships too, does, and it adds the bias and the activation on the way. Its layers keep their weights in a blocked
order that suits the processor. Convolutions are oneDNN's already, but torch reorders their weights and inputs in each
call. `apply` measures which layers gain from it on the machine at hand and leaves the others as they are.

- ``operators``: the product and the convolution with a packed weight, and whether this torch has them.
- ``parameters``: parameters of which the plain weight exists only while somebody uses it.
- ``layers``: a layer that computes with its packed weight, and the linear one.
- ``convolutions``: a convolution that does.
- ``tuning``: measure which of the two ways is faster for a shape.
- ``fusion``: activations that the linear layer before them can compute.
- ``transform``: `apply`, `remove` and `report`.
- ``fast``: the option ``fast`` of commands and functions that load models.
"""

from plm_core.packing.fast import check_fast, make_fast
from plm_core.packing.transform import NAME, apply, remove, report

__all__ = ["NAME", "apply", "check_fast", "make_fast", "remove", "report"]
