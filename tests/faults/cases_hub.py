"""Outages of the Hub: code 7 within half a minute, and 0 where the cache has all; a moved branch is found."""

import os
import socket
import sys
import time
from contextlib import contextmanager

from hub_server import HubServer, Repository, _send
from tiny import says

from moe_tune.cli import verbs
from moe_tune.faults.case import Case

COMMIT, OTHER = "a" * 40, "b" * 40
FILES = {"config.json": b"{}", "model.safetensors": b"x" * 4000}
HINT = "HF_HUB_OFFLINE=1"
LOAD = 8.0
"""Seconds that a process may take by itself."""


def snapshot():
    """Let the verb ``list`` read a snapshot of the Hub that ``HF_ENDPOINT`` names, with a cache of its own."""
    from huggingface_hub import constants

    constants.ENDPOINT = os.environ["HF_ENDPOINT"]
    constants.HUGGINGFACE_CO_URL_TEMPLATE = constants.ENDPOINT + "/{repo_id}/resolve/{revision}/{filename}"
    constants.HF_HUB_CACHE = os.path.abspath("hub")
    constants.HF_HUB_OFFLINE = False
    verbs.command_of = lambda verb: _read
    sys.modules["moe_tune.cli.main"].command_of = verbs.command_of


def _read(argv, plugins):
    from moe_tune.base.hub_snapshot import hub_snapshot

    hub_snapshot("a/b", COMMIT, ("*.json", "*.safetensors"), "the model", "model")
    return 0


class BreaksOff(HubServer):
    """Sends half of the large file once, and after that not a byte."""

    def _content(self, request, name, path, content, headers=None):
        if not path.endswith(".safetensors") or request.command != "GET":
            return super()._content(request, name, path, content, headers)
        if not self.downloads[name, path]:
            self.downloads[name, path] += 1
            _send(request, 200, content[: len(content) // 2], {**(headers or {}), "Content-Length": str(len(content))})
            request.wfile.flush()
        time.sleep(60)
        return None


class Fails(HubServer):
    """Answers everything with 500."""

    def answer(self, request):
        _send(request, 500, b"")


@contextmanager
def _refusing():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@contextmanager
def _silent():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(64)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def _unknown():
    yield "http://hub.invalid"


def _served(kind, **words):
    @contextmanager
    def served():
        with kind({"a/b": Repository({COMMIT: FILES, OTHER: FILES}, {"main": OTHER}, **words)}) as server:
            server._servers[0].daemon_threads = True
            yield server.url

    return served


def _tried(trial, url):
    return trial.run(["list", "heads"], {"HF_ENDPOINT": url}, snapshot)


def _outage(kind, name, hub, code, within, words):
    def attempt(trial):
        with hub() as url:
            ended = _tried(trial, url)
        soon = f"within {within:.0f} s" if ended.seconds < within + LOAD else f"after {ended.seconds:.0f} s"
        return f"exit {ended.code}, told{says(ended, *words)}, {soon}"

    return Case(kind, name, f"exit {code}, told, within {within:.0f} s", attempt)


def _cached(trial):
    with _served(HubServer)() as url:
        first = _tried(trial, url)
    again = _tried(trial, url)
    return f"{first.code}, {again.code}{'' if not again.code else again.err[-300:]}"


CASES = [
    _outage("F27", "the Hub refuses connections", _refusing, 7, 15, ["a/b", COMMIT, HINT]),
    _outage("F27", "the Hub is an unknown host", _unknown, 7, 15, ["a/b", COMMIT, HINT]),
    _outage("F27", "the Hub takes connections and never answers", _silent, 7, 30, ["a/b", COMMIT, HINT]),
    _outage("F27", "the Hub falls silent within a file", _served(BreaksOff), 7, 30, ["a/b", COMMIT]),
    _outage("F27", "the Hub answers 500", _served(Fails), 7, 30, ["a/b", COMMIT]),
    Case("F27", "the Hub is gone, all is in the cache", "0, 0", _cached),
    _outage("F28", "the Hub serves another commit", _served(HubServer, ignores_revisions=True), 4, 15, [COMMIT, OTHER]),
]
