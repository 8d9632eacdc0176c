"""``plm serve``: a language model for programs, by the server of transformers or of vLLM."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from plm_core.cli.notes import say_model
from plm_core.cli.options import Device, Threads, WeightsDtype
from plm_core.utils.arguments import DEVICE


def serve(
    model: Annotated[
        str,
        typer.Argument(
            help="Language model: its name, with or without tag; a folder of one; or org/name of a repository."
        ),
    ],
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "localhost",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port to listen on.")] = 8000,
    device: Device = DEVICE,
    dtype: WeightsDtype = None,
    threads: Threads = None,
    write: Annotated[
        Path | None,
        typer.Option(
            "--write",
            metavar="DIR",
            help="Only write the model to a folder that transformers and vLLM serve, and print the commands for that.",
        ),
    ] = None,
) -> None:
    """Serve a language model to programs, by the interface of OpenAI."""
    from plm_core.lm import serving
    from plm_core.lm.asking import check_dtype
    from plm_core.utils.devices import cpu_threads

    check_dtype(dtype)
    if write is not None:
        folder = serving.servable(model, write)
        typer.echo(f"wrote {Path(folder).resolve()}", err=True)
        print(f"transformers serve {shlex.quote(folder)}")
        print(f"vllm serve {shlex.quote(folder)} --model-impl transformers")
        return
    serving.check_server()
    serving.check_port(host, port)
    served = serving.servable(model)
    say_model(model)
    typer.echo(f"at http://{host}:{port}/v1/chat/completions, as the model {served}; Ctrl-C ends it", err=True)
    with cpu_threads(threads):
        serving.serve(served, host, port, device, dtype)
