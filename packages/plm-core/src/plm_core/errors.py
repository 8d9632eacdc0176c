"""The errors of plm-core. Each is one line that names the argument, the value received and what is allowed."""

LONGEST = 1000
"""The number of characters of a message that are shown, unless a value makes it longer than a person reads."""


def escaped(text: str) -> str:
    r"""Return ``text`` with escapes such as ``\n`` and ``\x1b`` for what a terminal does not show as it is."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class PlmError(Exception):
    """The base of every error that this family raises on purpose. The command line prints it as one line."""

    def __str__(self) -> str:
        """Return the message. Names from a file cannot break the line or steer the terminal.

        The middle of a long message is cut out, which is the value received: what is allowed stands at the end.
        """
        line = escaped(super().__str__())
        return line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} ... {line[-LONGEST // 2 :]}"


class InputError(PlmError, ValueError):
    """An argument has a value that is not allowed."""


class UnknownName(PlmError, LookupError):
    """A look-up failed. The message gives similar names and the distribution that would provide the name."""


class DuplicateName(PlmError, LookupError):
    """Two plug-ins declare the same name, so neither gets it. The message names both and the switch for each."""


class MissingDependency(PlmError, ImportError):
    """A distribution or an extra that is needed is not installed."""


class NotSupported(PlmError, NotImplementedError):
    """Two pieces cannot be combined. The message gives the reason."""


class NoWeights(NotSupported):
    """A model is asked for with pretrained weights, and there are none of it."""


class PluginError(PlmError):
    """A plug-in, or something that it declares, cannot be used."""


class FileError(PlmError, OSError):
    """A file cannot be written. A file that was there before is unchanged."""


class WeightsError(PlmError, ValueError):
    """Weights cannot be read, or do not fit the model. Nothing was loaded or written."""


class TrainingInterrupted(PlmError):
    """A training was stopped by Ctrl-C or SIGTERM at the end of a step. The message says how to go on.

    Attributes:
        signum: The number of the signal.
        step: The number of steps that were taken.
        checkpoint: The path of the checkpoint that resuming goes on from, or None.
    """

    def __init__(self, message: str, signum: int, step: int, checkpoint: str | None) -> None:
        super().__init__(message)
        self.signum = signum
        self.step = step
        self.checkpoint = checkpoint
