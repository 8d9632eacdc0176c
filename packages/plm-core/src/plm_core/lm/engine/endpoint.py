"""A model behind an address that speaks OpenAI's chat completions, as captioner and as writer."""

from __future__ import annotations

import base64
import io
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from plm_core.errors import InputError
from plm_core.lm.engine.workers import MAX_NEW_TOKENS, Text, Visual, WorkerError, pictures_of
from plm_core.utils.text import first_line

if TYPE_CHECKING:
    from PIL import Image

PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds to wait after each answer that the rate limit is reached, before the same question again."""
RATE_LIMIT = 429
REFUSED = (401, 403, 404)
"""Status codes that say that no question will be answered."""
QUALITY = 92
"""The quality of the JPEG files in which images are sent."""


class Endpoint:
    """A model behind an address.

    Args:
        base_url: The address, such as ``http://localhost:8000/v1``.
        model: The name of the model there.
        api_key: The key; None for an endpoint that needs none. The token of the Hugging Face Hub is never sent.
        timeout: Seconds to wait for a text.
        parallel: Questions at the same time.
        max_new_tokens: The longest text, in tokens.
        temperature: 0 for the most likely text.

    Raises:
        InputError: ``base_url`` is no address.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        api_key: str | None = None,
        *,
        timeout: float = 120.0,
        parallel: int = 8,
        max_new_tokens: int = MAX_NEW_TOKENS,
        temperature: float = 0.0,
    ) -> None:
        if not re.match(r"https?://", base_url):
            raise InputError(
                f"base_url {base_url!r} is not allowed: an address that begins with http:// or https:// is"
            )
        self.name = f"{model} at an endpoint"
        self.base_url = base_url
        self.model = model
        self.timeout = timeout
        self.parallel = parallel
        self.options = {"max_tokens": max_new_tokens, "temperature": temperature}
        self.sleep: Callable[[float], None] = time.sleep
        self._key = api_key
        self._client: Any = None

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs, which makes a client of its own."""
        return {**self.__dict__, "_client": None}

    def caption(self, items: Sequence[Visual], prompt: str) -> list[Text]:
        """Ask about each image and clip. The frames of a clip are images of one message.

        Raises:
            InputError: The endpoint refuses the key or does not know the model.
        """
        return self._each([[*map(_image, pictures_of(item)), {"type": "text", "text": prompt}] for item in items])

    def write(self, prompts: Sequence[str]) -> list[Text]:
        """Answer prompts.

        Raises:
            InputError: The endpoint refuses the key or does not know the model.
        """
        return self._each(prompts)

    def _each(self, contents: Sequence[Any]) -> list[Text]:
        self._connect()  # here, since threads would each make a client
        with ThreadPoolExecutor(max(self.parallel, 1)) as pool:
            return list(pool.map(self._text, contents))

    def _connect(self) -> Any:
        if self._client is None:
            from huggingface_hub import InferenceClient

            # without a key, the client would send the user's token of the Hub to this address
            self._client = InferenceClient(base_url=self.base_url, api_key=self._key or "none", timeout=self.timeout)
        return self._client

    def _text(self, content: Any) -> Text:
        """Ask one question. Only the answer that a rate limit is reached is followed by another try."""
        try:
            for pause in PAUSES:
                text = self._ask(content)
                if text is not None:
                    return text
                self.sleep(pause)
            text = self._ask(content)
        except WorkerError as e:
            return e
        if text is None:
            return WorkerError(f"the rate limit of {self.name} is still reached after {len(PAUSES)} pauses")
        return text

    def _ask(self, content: Any) -> str | None:
        """Return one text, or None if the rate limit is reached."""
        from huggingface_hub.errors import HfHubHTTPError, InferenceTimeoutError, OfflineModeIsEnabled

        from plm_core.utils.network import client_errors, masked

        messages = [{"role": "user", "content": content}]
        try:
            output = self._connect().chat_completion(messages, model=self.model, **self.options)
            text = output.choices[0].message.content
        except OfflineModeIsEnabled as e:
            raise InputError(f"{self.name} cannot be reached while HF_HUB_OFFLINE is set") from e
        except HfHubHTTPError as e:
            status = e.response.status_code
            if status == RATE_LIMIT:
                return None
            kind = InputError if status in REFUSED else WorkerError
            raise kind(f"{self.name} answers with status {status} ({masked(first_line(e))})") from e
        except (InferenceTimeoutError, *client_errors()) as e:
            raise WorkerError(f"{self.name} does not answer ({masked(first_line(e))})") from e
        except (ValueError, TypeError, LookupError, AttributeError) as e:  # an answer of another form
            raise WorkerError(f"the answer of {self.name} is no chat completion ({masked(first_line(e))})") from e
        return str(text or "")


def _image(picture: Image.Image) -> dict[str, Any]:
    """Return an image as a part of a message, within its address."""
    file = io.BytesIO()
    picture.convert("RGB").save(file, "JPEG", quality=QUALITY)
    contents = base64.b64encode(file.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{contents}"}}
