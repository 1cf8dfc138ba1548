"""Waiting for the Hub, but for so long only: its client by itself tries a server that sends nothing for 20 minutes."""

import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SILENCE = 25.0
"""Seconds without a byte of the Hub after which it counts as gone; with the client's own pauses it is half a minute."""
TRIES = 3
"""How often one address is asked without a byte of an answer: a host that refuses or is unknown is given up soon."""


class HubSilence:
    """Watches the requests of the Hub's client: what ends them is silence, not their number or length.

    Its methods are hooks of ``httpx`` and may be called by several threads.

    Args:
        limit: Seconds without a byte after which it counts as gone.
    """

    def __init__(self, limit: float = SILENCE) -> None:
        self.limit = limit
        self._heard, self._tries = time.monotonic(), Counter[str]()
        self._lock = threading.Lock()

    def heard(self) -> None:
        """Take note that something has come."""
        with self._lock:
            self._heard = time.monotonic()
            self._tries.clear()

    def asked(self, request: Any) -> None:
        """Refuse a request after too long a silence, and let no other last longer.

        Raises:
            OfflineModeIsEnabled: The silence has lasted; what the client takes for no connection, and tries no more.
        """
        from huggingface_hub.errors import OfflineModeIsEnabled

        with self._lock:
            if not self._tries:  # nothing is waited for: what has passed is the client's own time
                self._heard = time.monotonic()
            silence = time.monotonic() - self._heard
            tried = self._tries[key := f"{request.method} {request.url}"]
            self._tries[key] += 1
        if silence >= self.limit or tried >= TRIES:
            raise OfflineModeIsEnabled(f"no byte from {request.url.host} for {silence:.0f} s, asked {tried} times")
        rest = max(self.limit - silence, 1.0)
        own = request.extensions.get("timeout", {})
        clipped = {name: min(rest, own.get(name) or rest) for name in ("connect", "read", "write", "pool")}
        request.extensions = {**request.extensions, "timeout": clipped}

    def answered(self, response: Any) -> None:
        """Take note of an answer; of one with content, of every part that comes."""
        if response.request.method != "GET":
            self.heard()
        else:
            library = sys.modules[type(response).__module__.partition(".")[0]]  # httpx or httpx2, by the client
            response.stream = _heard_stream(library.SyncByteStream, response.stream, self)


@contextmanager
def patient_hub(limit: float = SILENCE) -> Iterator[None]:
    """Give up on a Hub that is silent, for all that its client asks within the block.

    Args:
        limit: Seconds without a byte after which it counts as gone.
    """
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils import _http

    watch, usual = HubSilence(limit), _http._GLOBAL_CLIENT_FACTORY

    def client() -> Any:
        made = usual()
        hooks = made.event_hooks
        made.event_hooks = {
            "request": [*hooks["request"], watch.asked],
            "response": [watch.answered, *hooks["response"]],
        }
        return made

    set_client_factory(client)
    try:
        yield
    finally:
        set_client_factory(usual)


def _heard_stream(kind: Any, inner: Any, watch: HubSilence) -> Any:
    class Heard(kind):
        """A response's content, of which every part is a sign of life."""

        def __iter__(self) -> Iterator[bytes]:
            for part in inner:
                watch.heard()
                yield part

        def close(self) -> None:
            inner.close()

    return Heard()
