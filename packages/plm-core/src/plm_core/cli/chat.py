"""``plm chat``: a conversation about images and videos, on a terminal or from a pipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plm_core.cli.ask import say_cost, show_answer, show_piece
from plm_core.cli.notes import printable, say_model
from plm_core.cli.options import (
    LANGUAGE_MODEL,
    Beams,
    Device,
    KeepTokens,
    LanguageModel,
    MaxNewTokens,
    MaxTokens,
    Seed,
    Temperature,
    Threads,
    TopP,
    Transforms,
    WeightsDtype,
)
from plm_core.errors import InputError, PlmError
from plm_core.utils.arguments import DEVICE

if TYPE_CHECKING:
    from plm_core.lm.assistant import Chat
    from plm_core.lm.prompts import Medium

HELP = """\
/image PATH   show an image; what you say next may be about it
/video PATH   show a video
/reset        begin again
/help         show this
/quit         end, as Ctrl-D does"""


def chat(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Images and videos that the conversation begins with.")
    ] = None,
    model: LanguageModel = LANGUAGE_MODEL,
    max_tokens: MaxTokens = None,
    keep_tokens: KeepTokens = None,
    transform: Transforms = None,
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    beams: Beams = 1,
    seed: Seed = 0,
    device: Device = DEVICE,
    dtype: WeightsDtype = None,
    threads: Threads = None,
) -> None:
    """Talk with a language model about images and videos: /help shows the commands."""
    import torch

    from plm_core.lm import asking
    from plm_core.lm.assistant import Chat
    from plm_core.utils.devices import cpu_threads

    shown: list[Medium] = [_file(str(path)) for path in files or []]
    options = asking.generation(max_new_tokens, temperature, top_p, beams)
    with cpu_threads(threads):
        assistant = asking.load_assistant(
            model,
            dtype=dtype,
            device=device,
            transform=transform or [],
            keep_tokens=keep_tokens,
            max_tokens=max_tokens,
        )
        say_model(model)
        torch.manual_seed(seed)
        talk = Conversation(Chat(assistant), options, shown)
        failed = talk.run(_lines())
    if failed and not sys.stdin.isatty():
        raise typer.Exit(2)


@dataclass
class Conversation:
    """A conversation by lines: what is said, and commands that begin with a slash.

    Attributes:
        chat: The conversation.
        options: Keywords of transformers' ``generate``.
        shown: Images and videos that go with what is said next.
    """

    chat: Chat
    options: dict[str, Any]
    shown: list[Medium] = field(default_factory=list)

    def run(self, lines: Iterator[str]) -> int:
        """Answer lines until they end, and return how many could not be answered."""
        failed = 0
        for line in lines:
            command, _, rest = line.strip().partition(" ")
            if command == "/quit":
                break
            try:
                if command.startswith("/"):
                    self._obey(command, rest.strip())
                elif line.strip():
                    self._say(line.strip())
            except PlmError as e:  # the conversation stays as it was
                failed += 1
                print(f"plm: error: {printable(str(e))}", file=sys.stderr)
        return failed

    def _say(self, text: str) -> None:
        streams = sys.stdout.isatty() and "num_beams" not in self.options
        media = list(self.shown)
        try:
            answer = self.chat.say(text, media, stream=show_piece if streams else None, **self.options)
        except KeyboardInterrupt:
            print("\ninterrupted; the conversation is as it was before", file=sys.stderr)
            return
        except InputError:
            self.shown = [] if media else self.shown  # else a broken file would be in the way of all that is said
            raise
        self.shown = []
        show_answer(answer, streams)
        if streams:
            say_cost(answer)

    def _obey(self, command: str, rest: str) -> None:
        commands: dict[str, Callable[[], None]] = {
            "/image": lambda: self._show(rest, video=False),
            "/video": lambda: self._show(rest, video=True),
            "/reset": self._reset,
            "/help": lambda: _tell(HELP),
        }
        if command not in commands:
            raise InputError(f"there is no {command}; {', '.join(commands)} and /quit are")
        commands[command]()

    def _show(self, path: str, video: bool) -> None:
        from plm_core.lm.prompts import VideoClip, video_of

        file = _file(path)
        if not video and video_of(file) is not None:
            raise InputError(f"{path!r} is a video; /video shows it")
        self.shown.append(VideoClip(source=file) if video else file)

    def _reset(self) -> None:
        self.chat.messages, self.chat.media, self.shown = [], [], []


def _file(path: str) -> str:
    full = os.path.expanduser(path)
    if not os.path.isfile(full):
        raise InputError(f"{path!r} is no file")
    return full


def _lines() -> Iterator[str]:
    """Yield lines from a terminal, where they can be edited, or from a pipe."""
    if not sys.stdin.isatty():
        yield from iter(sys.stdin.readline, "")  # from stdin itself, it would be closed with this generator
        return
    from rich.console import Console

    console = Console(stderr=True)
    _tell("/help shows the commands")
    while True:
        try:
            yield console.input("[bold cyan]>[/] ")
        except (EOFError, KeyboardInterrupt):
            print(file=sys.stderr)
            return


def _tell(text: str) -> None:
    from rich.console import Console

    Console(stderr=True, highlight=False).print(text, markup=False)
