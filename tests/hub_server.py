"""A loopback server laid out like the Hugging Face Hub, for tests of everything that downloads."""

import hashlib
import json
import threading
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".parquet")
"""Files that the Hub keeps apart and serves from another host, to which it redirects."""


@dataclass
class Repository:
    """A repository: the files of every commit, and where its branches point.

    Args:
        commits: 40-digit commit to path to content.
        branches: Branch to commit.
        gated: Whether access needs a token.
        cut_off: Files of which the connection breaks after half the content.
        ignores_revisions: Serve what ``main`` points to whatever is asked for, as a careless mirror does.
    """

    commits: dict[str, dict[str, bytes]]
    branches: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    cut_off: frozenset[str] = frozenset()
    ignores_revisions: bool = False


class HubServer:
    """Serves repositories on 127.0.0.1 until its ``with`` block ends.

    Attributes:
        repositories: By the way a path names them: ``owner/name`` for a model, ``datasets/owner/name``.
        unknown: Requests that nothing here answers; a test asserts that there are none.
        answered: Every request that was answered, as ``METHOD path``.
        downloads: How often the content of each file was sent, by repository and path.
    """

    def __init__(self, repositories: dict[str, Repository]) -> None:
        self.repositories = repositories
        self.unknown: list[str] = []
        self.answered: list[str] = []
        self.downloads: Counter[tuple[str, str]] = Counter()
        self.stored: dict[str, tuple[str, str, bytes]] = {}
        # Large files have a host of their own, as at the Hub: the client meets a redirect that leaves the host.
        self._servers = [ThreadingHTTPServer(("127.0.0.1", 0), self._handler()) for _ in range(2)]

    @property
    def url(self) -> str:
        """What HF_ENDPOINT is set to."""
        return f"http://127.0.0.1:{self._servers[0].server_address[1]}"

    @property
    def storage(self) -> str:
        """Where large files are."""
        return f"http://127.0.0.1:{self._servers[1].server_address[1]}"

    def __enter__(self) -> "HubServer":
        for server in self._servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *fault: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def _handler(hub) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.answer(self)

            do_HEAD = do_POST = do_PUT = do_GET

            def log_message(self, *words: Any) -> None:
                pass

        return Handler

    def answer(self, request: Any) -> None:
        """Answer one request.

        Args:
            request: The handler of the request.
        """
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        said = f"{request.command} {request.path}"
        words = unquote(urlsplit(request.path).path).strip("/").split("/")
        if self.took(request, words, body):
            self.answered.append(said)
            return None
        route = self._route(words)
        if route is None:
            self.unknown.append(said)
            return _send(request, 404, b"{}")
        self.answered.append(said)
        kind, name, revision, rest = route
        if kind == "agents":
            return _send(request, 200, b"{}")
        if kind == "storage":
            return self._content(request, *self.stored[rest])
        repository = self.repositories.get(name)
        if repository is None:
            return _refuse(request, 401, "RepoNotFound")
        if repository.gated and not request.headers.get("Authorization"):
            return _refuse(request, 401, "GatedRepo")
        commit = repository.branches.get("main" if repository.ignores_revisions else revision, revision)
        if commit not in repository.commits:
            return _refuse(request, 404, "RevisionNotFound")
        files = repository.commits[commit]
        if kind == "resolve":
            return self._resolve(request, name, commit, rest)
        if kind == "info":
            return _send(request, 200, _json({"id": name.removeprefix("datasets/"), "sha": commit, "siblings": []}))
        if kind == "tree":
            found = _listing(files, rest, recursive="recursive=true" in request.path)
            if rest and not found:
                return _refuse(request, 404, "EntryNotFound", {"X-Repo-Commit": commit})
            return _send(request, 200, _json([_entry(path, files) for path in found]))
        # Which of some paths there are, and what they are.
        asked = [unquote(part.partition("=")[2]) for part in body.decode().split("&") if part.startswith("paths=")]
        found = [path for path in asked if any(file == path or file.startswith(f"{path}/") for file in files)]
        return _send(request, 200, _json([_entry(path, files) for path in found]))

    def took(self, request: Any, words: list[str], body: bytes) -> bool:
        """Answer a request that writes, and say whether it was one; this server is read alone."""
        return False

    def _route(self, words: list[str]) -> tuple[str, str, str, str] | None:
        """Return kind, repository, revision and path of a request; ``None`` for what is not served."""
        if len(words) == 2 and words[0] == "storage" and words[1] in self.stored:
            return "storage", "", "", words[1]
        if words == ["api", "agent-harnesses"]:  # the client's list of programs that may be driving it
            return "agents", "", "", ""
        api = words[0] == "api"
        of_dataset = words[int(api)] == "datasets"
        if api or of_dataset:
            words = words[1 + (api and words[1] in ("datasets", "models")) :]
        if len(words) < 2:
            return None
        name, rest = "/".join(words[:2]), words[2:]
        name = f"datasets/{name}" if of_dataset else name
        if not rest:
            return ("info", name, "main", "") if api else None
        kinds = {"revision": "info", "tree": "tree", "paths-info": "paths-info"} if api else {"resolve": "resolve"}
        if rest[0] not in kinds or len(rest) < 2:
            return None
        return kinds[rest[0]], name, rest[1], "/".join(rest[2:])

    def _resolve(self, request: Any, name: str, commit: str, path: str) -> None:
        files = self.repositories[name].commits[commit]
        if path not in files:
            return _refuse(request, 404, "EntryNotFound", {"X-Repo-Commit": commit})
        headers = {"X-Repo-Commit": commit, "ETag": f'"{_etag(path, files[path])}"'}
        if not path.endswith(LARGE):
            return self._content(request, name, path, files[path], headers)
        key = hashlib.sha256(f"{name} {commit} {path}".encode()).hexdigest()
        self.stored[key] = name, path, files[path]
        headers |= {"X-Linked-Size": str(len(files[path])), "X-Linked-Etag": headers.pop("ETag")}
        return _send(request, 302, b"", {**headers, "Location": f"{self.storage}/storage/{key}"})

    def _content(
        self, request: Any, name: str, path: str, content: bytes, headers: dict[str, str] | None = None
    ) -> None:
        first = 0
        if request.headers.get("Range"):
            first = int(request.headers["Range"].removeprefix("bytes=").split("-")[0])
        status = 206 if first else 200
        if path in self.repositories[name].cut_off and request.command == "GET":
            half = content[first : len(content) // 2]
            _send(request, status, half, {**(headers or {}), "Content-Length": str(len(content) - first)})
            request.close_connection = True
            return
        if request.command == "GET":
            self.downloads[name, path] += 1
        _send(request, status, content[first:], headers)


def _listing(files: dict[str, bytes], folder: str, recursive: bool) -> list[str]:
    """Return the files and folders within a folder: directly, or at any depth."""
    start = f"{folder}/" if folder else ""
    below = [path.removeprefix(start).split("/") for path in files if path.startswith(start)]
    depths = range(1, max(map(len, below), default=0) + 1) if recursive else [1]
    return sorted({start + "/".join(parts[:depth]) for parts in below for depth in depths})


def _etag(path: str, content: bytes) -> str:
    return hashlib.sha256(content).hexdigest() if path.endswith(LARGE) else _git_hash(content)


def _git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _entry(path: str, files: dict[str, bytes]) -> dict[str, Any]:
    if path not in files:
        return {"type": "directory", "path": path, "oid": _git_hash(path.encode()), "size": 0}
    content = files[path]
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": _git_hash(content)}
    if path.endswith(LARGE):
        entry["lfs"] = {"oid": _etag(path, content), "size": len(content), "pointerSize": 134}
    return entry


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _refuse(request: Any, status: int, code: str, headers: dict[str, str] | None = None) -> None:
    _send(request, status, b"", {"X-Error-Code": code, "X-Error-Message": code, **(headers or {})})


def _send(request: Any, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
    request.send_response(status)
    for key, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
        request.send_header(key, value)
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(content)
