"""The Hugging Face Hub when it does not answer, and secrets that must stay out of messages."""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from json import JSONDecodeError

from plm_core.utils.text import first_line

PAUSES = (0.0, 1.0, 2.0)
"""Seconds before each question to a Hub that does not answer or fails."""
TIMEOUT = 5.0
"""Seconds to wait for the answer to one question."""
BUSY = (408, 429, 500, 502, 503, 504)
"""Status codes with which a server says that it cannot answer now."""


def no_answer(url: str, patient: bool) -> str | None:
    """Ask the Hub for the head of a file, and say why there is no answer; None if there is one, be it a refusal.

    Args:
        url: The address of the file.
        patient: Whether to ask again, since nothing else has the file.
    """
    from huggingface_hub import get_hf_file_metadata
    from huggingface_hub.errors import HfHubHTTPError

    failures: tuple[type[Exception], ...] = (*client_errors(), ValueError)  # which a redirect to no address raises
    why = None
    for pause in PAUSES if patient else PAUSES[:1]:
        time.sleep(pause)
        try:
            get_hf_file_metadata(url, timeout=TIMEOUT)
        except HfHubHTTPError as e:
            status = e.response.status_code
            if status not in BUSY:
                return None
            why = f"status {status}"
        except failures as e:
            why = str(e) or type(e).__name__
            if "Timeout" in type(e).__name__:  # it had its time
                return why
        else:
            return None
    return why


def client_errors() -> tuple[type[Exception], ...]:
    """Return the errors of the HTTP client that huggingface_hub uses; its own HfHubHTTPError is one of them."""
    from huggingface_hub.errors import HfHubHTTPError

    base = next(kind for kind in HfHubHTTPError.__mro__ if kind.__name__ == "HTTPError")
    # the name of the client's package changes with the version of huggingface_hub
    client = sys.modules[base.__module__.partition(".")[0]]
    return base, client.InvalidURL


_unanswered: list[str] = []
"""Why the Hub did not answer, while `from_cache` keeps huggingface_hub from asking it. Its switch is global too."""


@contextmanager
def from_cache(silent: str | None) -> Iterator[None]:
    """Let huggingface_hub take files from its cache only, and fail at once where they are not there.

    Left alone, it asks a Hub that does not answer six times for each file, with growing pauses.

    Args:
        silent: Why the Hub does not answer; None if it does, and nothing changes.
    """
    from huggingface_hub import constants

    if silent is None or constants.HF_HUB_OFFLINE:
        yield
        return
    constants.HF_HUB_OFFLINE = True
    _unanswered.append(silent)
    try:
        yield
    finally:
        _unanswered.remove(silent)
        constants.HF_HUB_OFFLINE = False


def masked(text: str) -> str:
    """Return a message without the user and password in an address (HF_ENDPOINT, a proxy) and without the token."""
    from huggingface_hub import get_token

    text = re.sub(r"://[^/\s'\"]*@", "://***@", text)
    try:
        token = get_token()
    except UnicodeError:  # its file is no text
        token = None
    return text.replace(token, "***") if token else text


class _Mask(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = masked(record.getMessage()), ()
        return True


_MASK = _Mask()


def mask_logs() -> None:
    """Keep secrets out of the lines that huggingface_hub prints and its HTTP client logs."""
    logging.getLogger(client_errors()[0].__module__.partition(".")[0]).addFilter(_MASK)
    for handler in logging.getLogger("huggingface_hub").handlers:
        handler.addFilter(_MASK)  # which adds it once


def unfit_token() -> bool:
    """Return whether the user's token has characters that no header of a request can have."""
    from huggingface_hub.utils import build_hf_headers

    try:
        return not all(value.isascii() and value.isprintable() for value in build_hf_headers().values())
    except UnicodeError:
        return True


def reason(e: Exception, silent: str | None) -> str:
    """Say why files of the Hub cannot be had.

    Args:
        e: An error of huggingface_hub, its HTTP client or a file.
        silent: Why the Hub did not answer before, or None.
    """
    from huggingface_hub import constants, errors

    silent = silent or next(iter(_unanswered), None)
    if (silent or isinstance(e, (UnicodeError, *client_errors()))) and unfit_token():
        return "the token has characters that cannot be sent; check HF_TOKEN or call 'hf auth login'"
    if isinstance(e, errors.LocalEntryNotFoundError):
        detail = silent or (e.__cause__ and first_line(e.__cause__))
        unreachable = "the Hub cannot be reached" + (f" ({detail})" if detail else "")
        why = "HF_HUB_OFFLINE is set" if constants.is_offline_mode() and silent is None else unreachable
        return f"{why} and the file is not in the cache {constants.HF_HUB_CACHE}"
    if isinstance(e, errors.RemoteEntryNotFoundError):
        return f"the repository has no such file: {e.response.url.path.rpartition('/')[2]}"
    for kind, why in (  # the order matters, since some of these classes derive from others
        (errors.GatedRepoError, "access is gated; ask for it on the model's page, then 'hf auth login'"),
        (errors.RevisionNotFoundError, "there is no such revision"),
        (errors.RepositoryNotFoundError, "no such repository, or it is private and the token has no access"),
        (errors.HfHubHTTPError, first_line(e)),
        (client_errors(), f"the Hub cannot be reached ({first_line(e)})"),
    ):
        if isinstance(e, kind):
            return why
    return f"the Hub's answer is not JSON ({first_line(e)})" if isinstance(e, JSONDecodeError) else first_line(e)
