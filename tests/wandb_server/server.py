"""The HTTP side of the W&B test server: addresses, faults, and the environment of programs that talk to it."""

import json
import os
import re
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from wandb_server import artifact_operations, operations, sweep_operations
from wandb_server.store import Store

KEY = "local" + "0f" * 20
"""A key that wandb takes for one; nobody's."""
OPERATIONS = operations.OPERATIONS | artifact_operations.OPERATIONS | sweep_operations.OPERATIONS
STREAM = re.compile(r"/files/[^/]+/[^/]+/(?P<run>[^/]+)/file_stream")
STORAGE = re.compile(r"/storage/(?P<kind>run|artifact)/(?P<owner>[^/]+)/(?P<name>.+)")


class WandbServer:
    """A W&B server on a free loopback port; as a context it listens from its beginning to its end.

    Attributes:
        store: What it was told.
        fault: HTTP status that answers everything, ``"silent"`` for no answer at all, ``None`` for none.
        dies_after_rows: History rows after which the server vanishes, ``None`` for never.
        dies_with: What it does instead of vanishing: a ``fault`` from then on.
    """

    def __init__(
        self,
        fault: int | str | None = None,
        dies_after_rows: int | None = None,
        dies_with: int | str | None = None,
    ) -> None:
        self.fault, self.dies_after_rows, self.dies_with = fault, dies_after_rows, dies_with
        self.gone = threading.Event()
        handler = type("BoundHandler", (_Handler,), {"wandb": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self._http.block_on_close = False
        self.store = Store(url=f"http://127.0.0.1:{self._http.server_port}")

    def __enter__(self) -> Self:
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """Vanish: connections are refused, open ones dropped at their next request, and nothing is answered."""
        if not self.gone.is_set():
            self.gone.set()
            self._http.shutdown()
            self._http.server_close()

    def environment(self, folder: Path, **more: str) -> dict[str, str]:
        """Return the variables of a program that talks to this server and to nobody else.

        Args:
            folder: An empty folder, its home and the place of all of W&B's files but a run's own.
            more: Further variables; they win.
        """
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
        places = {name: str(folder / name.lower()) for name in ("CACHE_DIR", "CONFIG_DIR", "DATA_DIR", "ARTIFACT_DIR")}
        wandb = {
            "MODE": "online",
            "BASE_URL": self.store.url,
            "API_KEY": KEY,
            "ERROR_REPORTING": "false",
            "X_DISABLE_STATS": "true",
            "X_DISABLE_MACHINE_INFO": "true",
            "X_FILE_STREAM_TRANSMIT_INTERVAL": "1",  # whole seconds; less is taken for the default
        }
        variables = {f"WANDB_{name}": value for name, value in (wandb | places).items()}
        return inherited | variables | {"HOME": str(folder), "NO_PROXY": "127.0.0.1"} | more


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wandb: WandbServer

    def handle(self) -> None:
        """Serve a connection until either side ends it; a client that is killed may end it anyhow."""
        with suppress(ConnectionError):
            super().handle()

    def do_POST(self) -> None:
        self._serve(self._post)

    def do_PUT(self) -> None:
        self._serve(self._put)

    def do_GET(self) -> None:
        self._serve(self._refuse)

    def _serve(self, answer: Any) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.wandb.fault == "silent":
            self.wandb.gone.wait()
        if self.wandb.gone.is_set():
            self.close_connection = True
            return
        if isinstance(self.wandb.fault, int):
            self._reply({"error": "as the test wants it"}, self.wandb.fault)
            return
        with self.wandb.store.lock:
            reply, status = answer(urlsplit(self.path).path, body)
        self._reply(reply, status)
        limit = self.wandb.dies_after_rows
        if limit is not None and self.wandb.store.rows >= limit:
            if self.wandb.dies_with is None:
                self.wandb.stop()
            self.wandb.fault = self.wandb.dies_with

    def _post(self, path: str, body: bytes) -> tuple[Any, int]:
        if path == "/graphql":
            return self._graphql(json.loads(body))
        stream = STREAM.fullmatch(path)
        return self._stream(unquote(stream["run"]), json.loads(body)) if stream else self._refuse(path, body)

    def _graphql(self, request: dict[str, Any]) -> tuple[Any, int]:
        store = self.wandb.store
        found = re.search(r"\b(?:query|mutation)\s+(\w+)", request["query"])
        name = found[1] if found else request["query"]
        store.calls[name] += 1
        if name not in OPERATIONS:
            store.unknown.append(name)
            return {"data": None, "errors": [{"message": f"unknown operation {name}"}]}, 200
        return {"data": OPERATIONS[name](store, request.get("variables") or {})}, 200

    def _stream(self, name: str, request: dict[str, Any]) -> tuple[Any, int]:
        run = self.wandb.store.runs[name]
        for stream, part in (request.get("files") or {}).items():
            run.add(stream, part["offset"], part["content"])
        if request.get("complete"):
            run.complete, run.exit_code = True, request.get("exitcode")
        return {"exitcode": None, "limits": {}, "stopped": run.stop and run.sweep is None}, 200

    def _put(self, path: str, body: bytes) -> tuple[Any, int]:
        place = STORAGE.fullmatch(unquote(path))
        if place is None:
            return self._refuse(path, body)
        owners: dict[str, Any] = self.wandb.store.runs if place["kind"] == "run" else self.wandb.store.artifacts
        owners[place["owner"]].files[place["name"]] = body
        return {}, 200

    def _refuse(self, path: str, body: bytes) -> tuple[Any, int]:
        self.wandb.store.unknown.append(f"{self.command} {path}")
        return {"error": "unknown address"}, 404

    def _reply(self, reply: Any, status: int) -> None:
        content = json.dumps(reply, allow_nan=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet; the store says what was asked."""
