"""The stops of plm-core on ``plm tour``: layers that are packed, and what is installed."""

from __future__ import annotations

import copy

import timm.data
import torch

import plm_core
from plm_core import packing
from plm_core.hookspecs import Model
from plm_core.registry import registry
from plm_core.tools.bench import Timing, compare
from plm_core.tools.tour import Tour
from plm_core.utils.text import millions

PACKED_MODEL = "vit_tiny_patch16_224"
BATCH_SIZE = 2
RUNS = 8
FASTER = 1.05
"""The speed-up from which on a model is called faster. Less is within the noise of a few runs."""

CODE = f"""model = plm_core.create_model("{PACKED_MODEL}").eval()
plm_core.apply(model, "packed", example=images)
print(packing.report(model))"""


@torch.inference_mode()
def packed(tour: Tour) -> None:
    """Pack the layers of a small model of timm, and measure what this machine gains by it."""
    model = plm_core.create_model(PACKED_MODEL).eval()
    size = timm.data.resolve_model_data_config(model)["input_size"]
    images = torch.rand(BATCH_SIZE, *size, generator=torch.Generator().manual_seed(0))
    parameters = millions(sum(p.numel() for p in model.parameters()))
    tour.text(
        "On x86, torch multiplies float32 matrices by MKL, which does not use AVX-512 on AMD's processors. oneDNN, "
        "which torch ships too, does. The transform packed times each linear layer both ways on the machine at hand "
        f"and keeps the faster. Here it is tried on {PACKED_MODEL} of timm with {parameters} random parameters."
    )
    tour.code(CODE)
    faster = copy.deepcopy(model)
    if why := packing.make_fast(faster):
        tour.text(f"On this machine {why}.")
        return
    plain, timing = compare(model, [["packed"]], images, RUNS)
    answers = model(images)
    difference = (faster(images) - answers).abs().max() / answers.abs().max()
    tour.table(
        [
            {"model": name, "ms per image": one.milliseconds / BATCH_SIZE, "largest difference of the answers": text}
            for name, one, text in (("as it is", plain, ""), ("packed", timing, f"{difference:.0e} of the largest"))
        ]
    )
    tour.text(f"The transform reports: {timing.packed}.")
    tour.text(_gain(plain, timing))
    tour.fact("packed layers", timing.packed.partition(" linear")[0])
    tour.fact("speed when packed", f"{timing.speedup:.2f} x, answers differ by {difference:.0e}")


def _gain(plain: Timing, timing: Timing) -> str:
    """Say in words what packing gains on this machine."""
    if timing.packed.startswith("0 of"):
        return "This machine gains nothing: MKL is as fast as oneDNN on it, so every layer stays as it was."
    if plain.busy:
        low, high = plain.between
        return (
            f"Half of the batches of the model as it is took {low:.3g} to {high:.3g} ms, so something else keeps this "
            "machine busy, and what packing gains cannot be told."
        )
    if timing.speedup < FASTER:
        return "This machine gains nothing: some layers are faster by themselves, but the whole model is not."
    low, high = timing.spread
    return (
        f"Packed, the model is {timing.speedup:.2f} times as fast on this machine (half of the rounds: {low:.2f} to "
        f"{high:.2f}). The commands that run models do this with --fast."
    )


def installed(tour: Tour) -> None:
    """Show the installed plug-ins and the models that they ship with weights; this is the last stop."""
    tour.text("The installed plug-ins, and what each declares.")
    tour.table(
        [
            {
                "plug-in": s.name,
                "version": s.version,
                "state": s.state,
                "declares": s.declares or "; ".join(s.errors),
            }
            for s in registry().statuses
        ]
    )
    models = sorted(registry().declared(Model), key=lambda m: (m.family, m.params))
    shipped = [m for m in models if any(p.repo is None for p in m.pretrained)]
    tour.text(
        f"The models whose weights are shipped, so that they work without a download. {len(models) - len(shipped)} "
        "more are declared, most of them with weights on the Hugging Face Hub: plm list shows all. timm.create_model "
        "creates each of them by name."
    )
    tour.table(
        [
            {
                "model": m.name,
                "parameters": millions(m.params),
                "input": "x".join(map(str, m.input.shape)),
                "weights": _weights(m),
            }
            for m in shipped
        ]
    )
    tour.fact("plug-ins", str(sum(s.state == "loaded" for s in registry().statuses)))
    tour.fact("models", str(len(models)))


def _weights(model: Model) -> str:
    return ", ".join(f".{p.tag} ({p.license}{'' if p.repo else ', shipped'})" for p in model.pretrained)
