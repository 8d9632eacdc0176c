"""The errors of the hub: one line each, naming the argument, what came and what is allowed."""


class PlmError(Exception):
    """Base of every error the hub raises on purpose; the command line prints it as one line."""


class InputError(PlmError, ValueError):
    """An argument has a value that is not allowed."""


class UnknownName(PlmError, LookupError):
    """A look-up missed; the message says what is near and which distribution would provide it."""


class DuplicateName(PlmError, LookupError):
    """Two plug-ins declare the same name, so neither gets it; the message names both and the switch that mends it."""


class MissingDependency(PlmError, ImportError):
    """A distribution or an extra that a piece needs is not installed."""


class NotSupported(PlmError, NotImplementedError):
    """Two pieces cannot be combined, for a reason that the message gives."""


class PluginError(PlmError):
    """A plug-in, or something that it declares, could not be used."""


class FileError(PlmError, OSError):
    """A file cannot be written; what stood there before is untouched."""


class WeightsError(PlmError, ValueError):
    """Weights cannot be read, or do not fit the model; nothing was loaded or written."""
