"""Options that several commands share, so that each has one name and one help text everywhere.

A command gives the default, as in ``device: Device = DEVICE``, which is the same for all of them.
"""

from __future__ import annotations

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Transforms = Annotated[
    list[str] | None,
    typer.Option(
        "--transform",
        help="A transform to apply: NAME or NAME:option=value,... such as tome:r=13. May be repeated, "
        "which stacks them.",
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device", help="Device: cpu, cuda, cuda:1, mps, or auto for the accelerator if there is one, else cpu."
    ),
]
Dtype = Annotated[str, typer.Option("--dtype", help="Precision: fp32, bf16 or fp16 (the last two by autocast).")]
Fast = Annotated[
    bool,
    typer.Option(
        "--fast",
        help="On the CPU in fp32: let each layer compute by oneDNN with packed weights if that measures as faster (the "
        "transform packed). The answers differ by rounding only.",
    ),
]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Images or clips per batch.")]
NumWorkers = Annotated[
    int | None, typer.Option("--num-workers", min=0, help="Processes per device that load and decode the data.")
]
Stride = Annotated[
    int | None,
    typer.Option(
        "--stride",
        min=1,
        help="For a video model: step between the frames of a clip; 4 takes every fourth (default: its own).",
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="[ADDRESS]",
        help="Address of a Ray cluster that does the work. Without an address, a cluster is started on this "
        "machine; --ray must then be the last argument.",
    ),
]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads (default: torch's setting).")]
Size = Annotated[
    int | None, typer.Option("--size", min=1, help="Side of the images in pixels (default: the model's own).")
]
SkipUnreadable = Annotated[
    bool,
    typer.Option(
        "--skip-unreadable", help="Leave out images or videos that cannot be read, and list them (default: an error)."
    ),
]
LanguageModel = Annotated[
    str,
    typer.Option(
        "--model",
        help="Language model: its name, with or without tag; a folder of one; or org/name of a repository on the Hub.",
    ),
]
LANGUAGE_MODEL = "plm_micro_shapes"
"""The language model that answers unless another is named. It is the one that is shipped."""
WeightsDtype = Annotated[
    str | None, typer.Option("--dtype", help="Precision of the weights: fp32 or bf16 (default: that of the file).")
]
MaxTokens = Annotated[
    int | None,
    typer.Option(
        "--max-tokens",
        min=1,
        help="Visual tokens that one image or one video may take (default: tiles and frames as in the paper).",
    ),
]
KeepTokens = Annotated[
    int | None,
    typer.Option(
        "--keep-tokens",
        min=1,
        help="Visual tokens that are left of each tile or frame: the most similar ones are merged (default: all).",
    ),
]
MaxNewTokens = Annotated[
    int | None, typer.Option("--max-new-tokens", min=1, help="The most tokens of an answer (default: 256).")
]
Temperature = Annotated[
    float | None,
    typer.Option(
        "--temperature", min=0, help="Draw the answer at this temperature (default: the most likely one, which 0 is)."
    ),
]
TopP = Annotated[
    float | None,
    typer.Option("--top-p", min=0, max=1, help="Draw from the likeliest tokens that have this probability together."),
]
Beams = Annotated[int, typer.Option("--beams", min=1, help="Number of beams; more than 1 are not streamed.")]
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="Random seed.")]
