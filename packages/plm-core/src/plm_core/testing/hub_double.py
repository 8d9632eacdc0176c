"""A double of the Hugging Face Hub, which serves its HTTP protocol over loopback from memory.

Real calls of `huggingface_hub`, and of code built on it (`PyTorchModelHubMixin`, timm's `hf-hub:` names), run end to
end against it. So a test exercises the client's own cache, retries and error classes. The double has model repositories
only, and takes uploads inline (no LFS, no Xet). It does not import `huggingface_hub`, so a test may be the first to do
so.

    def test_config_is_cached(hub_double):
        hub_double.add("org/model", {"config.json": b"{}"})
        hf_hub_download("org/model", "config.json")
        hub_double.requests.clear()
        hf_hub_download("org/model", "config.json")
        assert hub_double.calls == ["HEAD /org/model/resolve/main/config.json"]
"""

import base64
import hashlib
import json
import os
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from urllib.parse import parse_qs, unquote, urlsplit

from plm_core.testing.hub_client import set_environment

if TYPE_CHECKING:
    import pytest

HOST = "127.0.0.1"


class Request(NamedTuple):
    """One request of the client. The keys of `headers` are case-insensitive."""

    method: str
    path: str
    headers: Message
    body: bytes


class Refusal(Exception):
    """An error response. The client tells errors apart by the `X-Error-Code` header."""

    def __init__(self, status: int, code: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(f"{status} {code}")
        self.reply = _Reply(code.encode(), status, {"X-Error-Code": code, **(headers or {})})


@dataclass
class Repo:
    """One repository. Refs point at commits, and a commit holds all its files."""

    refs: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: bool = False

    def at(self, revision: str) -> tuple[str, dict[str, bytes]]:
        """Return the commit that a branch or a full sha names, and the files of that commit."""
        sha = self.refs.get(revision, revision)
        if sha not in self.commits:
            raise Refusal(404, "RevisionNotFound")
        return sha, self.commits[sha]

    def commit(self, revision: str, files: dict[str, bytes]) -> str:
        """Create a commit whose whole content is `files`, let `revision` point at it, and return its sha."""
        tree = "".join(f"{_blob_oid(content)} {path}\n" for path, content in sorted(files.items()))
        # With the count in it, each sha is new even if the content is not, as with the date in git.
        sha = hashlib.sha1(f"{len(self.commits)}\n{tree}".encode(), usedforsecurity=False).hexdigest()
        self.commits[sha], self.refs[revision] = files, sha
        return sha


class HubDouble:
    """A double of the Hub on a free loopback port, which runs inside its `with` block.

    Attributes:
        token: The only token that may write. `activate` hands it to the client.
        repos: The repositories by id, for changes that `add` and `files` do not cover.
        requests: All requests since the start or the last `requests.clear()`.
        delay: Seconds to wait between the head and the body of each response.
    """

    def __init__(self) -> None:
        self.token = "hf_double"
        self.repos: dict[str, Repo] = {}
        self.requests: list[Request] = []
        self._port = 0
        self.heal()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen on a free port, or on the previous port after a `stop`."""
        self._server = _Server((HOST, self._port), _Handler)
        self._server.hub = self
        self._port = self._server.server_port
        # stop() waits for one poll, and the default of half a second would add up over a test suite
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Refuse connections. The repositories are kept, and `start` serves them again."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def endpoint(self) -> str:
        """The URL for `HF_ENDPOINT`."""
        return f"http://{HOST}:{self._port}"

    @property
    def calls(self) -> list[str]:
        """The logged requests as `"METHOD /path"`, the form that tests compare."""
        return [f"{request.method} {request.path}" for request in self.requests]

    def activate(self, monkeypatch: "pytest.MonkeyPatch", home: Path) -> None:
        """Make `huggingface_hub` talk to this double, in this process and its children, until monkeypatch undoes it.

        Args:
            monkeypatch: The pytest fixture. Its undo also reaches modules that are first imported in between.
            home: The `HF_HOME` of the client. A new folder means an empty cache.
        """
        bypass = ",".join(filter(None, (os.environ.get("no_proxy") or os.environ.get("NO_PROXY"), HOST)))
        inherited = [name for name in os.environ if name.startswith(("HF_", "HUGGINGFACE_", "HUGGING_FACE_"))]
        client = {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_TOKEN": self.token,
            "NO_PROXY": bypass,
            "no_proxy": bypass,
            "SSL_CERT_DIR": str(home),  # no certificates: each client would read all of the machine's in vain
        }
        disabled = {f"HF_HUB_DISABLE_{what}": "1" for what in ("PROGRESS_BARS", "TELEMETRY", "UPDATE_CHECK", "XET")}
        set_environment(monkeypatch, dict.fromkeys([*inherited, "TRANSFORMERS_OFFLINE"]) | client | disabled)

    # --- repositories -------------------------------------------------------------------------------------------

    def add(self, repo: str, files: Mapping[str, bytes | Path], revision: str = "main", gated: bool = False) -> str:
        """Commit files on top of those in `revision`. The repository and the branch are created as needed.

        Args:
            repo: Repository id, such as `"org/model"`.
            files: Content, or a file to read it from, by path in the repository.
            revision: The branch to commit to. A new branch starts empty.
            gated: Whether to refuse the files of the repository to everybody from now on.

        Returns:
            The sha of the new commit.
        """
        stored = self.repos.setdefault(repo, Repo())
        stored.gated = gated
        present = stored.commits.get(stored.refs.get(revision, ""), {})
        added = {path: data.read_bytes() if isinstance(data, Path) else data for path, data in files.items()}
        return stored.commit(revision, present | added)

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        """Return the content of the files in a revision, by path."""
        return dict(self._find(repo).at(revision)[1])

    # --- faults -------------------------------------------------------------------------------------------------

    def heal(self) -> None:
        """End all faults except `stop` and a gated repository."""
        self._failure: tuple[Iterator[bool], int] = _strikes(0), 0
        self._cuts: dict[str, tuple[Iterator[bool], int, bool]] = {}
        self._drop = _Drop(_strikes(0))
        self.delay = 0.0

    def fail(self, status: int = 503, times: int | None = None) -> None:
        """Answer the next `times` requests (None: all until `heal`) with an error status.

        With an empty cache, the client retries after a 5xx status: once immediately, and then after pauses, which the
        `Retry-After` of the response limits to a second each.
        """
        self._failure = _strikes(times), status

    def truncate(self, path: str, after: int, times: int | None = 1, silent: bool = False) -> None:
        """Cut downloads of a file short.

        Args:
            path: Path of the file, in any repository.
            after: Position in the file after which no bytes are sent.
            times: Number of downloads to cut (None: all until `heal`).
            silent: Whether to announce the cut length as the length. Only the size in the HEAD response then shows the
                fault, and the client fails immediately. Otherwise the connection drops, and the client retries after a
                second, by `Range` if it already has a whole `DOWNLOAD_CHUNK_SIZE` (10 MiB; patch it in
                `huggingface_hub.constants`).
        """
        self._cuts[path] = _strikes(times), after, silent

    def drop(self, times: int | None = None, sent: bytes = b"", hold: float = 0.0, reset: bool = False) -> None:
        """Close the connection of the next `times` requests (None: all until `heal`) without a proper answer.

        Args:
            times: Number of requests.
            sent: Bytes to send first, such as a part of a head, or something that is not HTTP.
            hold: Seconds to wait before that.
            reset: Whether the connection is reset, instead of ended.
        """
        self._drop = _Drop(_strikes(times), sent, hold, reset)

    def dropped(self) -> "_Drop | None":
        """Return how to drop the connection of a request, or None to answer it."""
        return self._drop if next(self._drop.strikes, False) else None

    @contextmanager
    def gone(self) -> Iterator[None]:
        """Refuse connections inside the `with` block. With an empty cache, the client itself retries for 23 seconds."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    # --- routes: each method answers one, and gets the named parts of the path as keyword arguments ---------------

    def reply(self, request: Request) -> "_Reply":
        """Answer a request, or fail if a fault is set."""
        strikes, status = self._failure
        if next(strikes, False):
            return _Reply(b"", status, {"Retry-After": "0"})
        method, path = "GET" if request.method == "HEAD" else request.method, urlsplit(request.path).path
        try:
            for verb, pattern, answer in _ROUTES:
                if verb == method and (match := pattern.fullmatch(path)):
                    return answer(self, request, **{name: unquote(part) for name, part in match.groupdict().items()})
            raise Refusal(501, f"The double has no {method} {path}")
        except Refusal as refusal:
            return refusal.reply

    def _find(self, repo: str) -> Repo:
        if repo not in self.repos:
            raise Refusal(404, "RepoNotFound")
        return self.repos[repo]

    def _authorize(self, request: Request) -> None:
        if request.headers["Authorization"] != f"Bearer {self.token}":
            raise Refusal(401, "Unauthorized")

    def _file(self, request: Request, repo: str, rev: str, path: str) -> "_Reply":
        stored = self._find(repo)
        if stored.gated:
            raise Refusal(403, "GatedRepo")
        sha, files = stored.at(rev)
        headers = {"X-Repo-Commit": sha}  # also for a missing file, whose absence the client then caches
        if path not in files:
            raise Refusal(404, "EntryNotFound", headers)
        content = files[path]
        headers["ETag"] = f'"{_blob_oid(content)}"'
        status, start, stop = 200, 0, len(content)
        if span := re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers["Range"] or ""):
            status, start, stop = 206, int(span[1]), min(int(span[2] or stop) + 1, stop)
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
        strikes, after, silent = self._cuts.get(path, (_strikes(0), 0, False))
        if request.method == "GET" and next(strikes, False):
            if not silent:
                headers["Content-Length"] = str(stop - start)
            stop = min(stop, after)
        return _Reply(content[start:stop], status, headers)

    def _info(self, request: Request, repo: str, rev: str = "main") -> "_Reply":
        sha, files = self._find(repo).at(rev)
        siblings = [{"rfilename": path} for path in sorted(files)]
        return _json({"id": repo, "sha": sha, "siblings": siblings, "tags": [], "private": False})

    def _tree(self, request: Request, repo: str, rev: str) -> "_Reply":
        files = sorted(self._find(repo).at(rev)[1].items())
        return _json([{"type": "file", "path": path, "size": len(x), "oid": _blob_oid(x)} for path, x in files])

    def _whoami(self, request: Request) -> "_Reply":
        self._authorize(request)
        return _json({"name": "me", "type": "user", "orgs": []})

    def _create(self, request: Request) -> "_Reply":
        self._authorize(request)
        options = json.loads(request.body)
        repo = f"{options.get('organization') or 'me'}/{options['name']}"
        exists = repo in self.repos
        if not exists:
            self.add(repo, {})
        return _json({"url": f"{self.endpoint}/{repo}"}, 409 if exists else 200)

    def _validate(self, request: Request) -> "_Reply":
        return _json({"errors": [], "warnings": []})

    def _preupload(self, request: Request, repo: str, rev: str) -> "_Reply":
        self._authorize(request)
        present = self._find(repo).at(rev)[1]
        paths = [file["path"] for file in json.loads(request.body)["files"]]
        # with the oid, the client leaves unchanged files out of the commit
        oids = {path: _blob_oid(present[path]) if path in present else None for path in paths}
        plan = {"uploadMode": "regular", "shouldIgnore": False}
        return _json({"files": [{"path": path, "oid": oid} | plan for path, oid in oids.items()]})

    def _commit(self, request: Request, repo: str, rev: str) -> "_Reply":
        self._authorize(request)
        stored = self._find(repo)
        files = _apply(request.body, stored.at(rev)[1])
        pull_request = None
        if "create_pr" in parse_qs(urlsplit(request.path).query):
            number = 1 + sum(ref.startswith("refs/pr/") for ref in stored.refs)
            rev, pull_request = f"refs/pr/{number}", f"{self.endpoint}/{repo}/discussions/{number}"
        sha = stored.commit(rev, files)
        url = f"{self.endpoint}/{repo}/commit/{sha}"
        return _json({"commitUrl": url, "commitOid": sha, "pullRequestUrl": pull_request})


def _compile(template: str) -> re.Pattern[str]:
    parts = {"repo": "[^/]+(?:/[^/]+)?", "rev": "[^/]+", "path": ".+"}
    return re.compile(template.format(**{name: f"(?P<{name}>{pattern})" for name, pattern in parts.items()}))


_ROUTES: tuple[tuple[str, re.Pattern[str], Callable[..., "_Reply"]], ...] = (
    ("GET", _compile("/{repo}/resolve/{rev}/{path}"), HubDouble._file),
    ("GET", _compile("/api/models/{repo}"), HubDouble._info),
    ("GET", _compile("/api/models/{repo}/revision/{rev}"), HubDouble._info),
    ("GET", _compile("/api/models/{repo}/tree/{rev}"), HubDouble._tree),
    ("GET", _compile("/api/whoami-v2"), HubDouble._whoami),
    ("POST", _compile("/api/repos/create"), HubDouble._create),
    ("POST", _compile("/api/validate-yaml"), HubDouble._validate),
    ("POST", _compile("/api/models/{repo}/preupload/{rev}"), HubDouble._preupload),
    ("POST", _compile("/api/models/{repo}/commit/{rev}"), HubDouble._commit),
)


class _Drop(NamedTuple):
    strikes: Iterator[bool]
    sent: bytes = b""
    hold: float = 0.0
    reset: bool = False


@dataclass
class _Reply:
    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


def _json(value: Any, status: int = 200) -> _Reply:
    return _Reply(json.dumps(value).encode(), status, {"Content-Type": "application/json"})


def _strikes(times: int | None) -> Iterator[bool]:
    # an iterator is a counter that the threads of the server can share without a lock
    return repeat(True) if times is None else repeat(True, times)


def _blob_oid(content: bytes) -> str:
    # git's name of a blob, which the client computes too, to compare
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _apply(operations: bytes, present: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the present files, changed by the operations in the body of a commit request."""
    files = dict(present)
    for line in operations.splitlines():
        operation = json.loads(line)
        value = operation["value"]
        match operation["key"]:
            case "header":
                pass
            case "file":
                files[value["path"]] = base64.b64decode(value["content"])
            case "deletedFile":
                files.pop(value["path"], None)
            case "deletedFolder":
                folder = value["path"].rstrip("/") + "/"
                files = {path: content for path, content in files.items() if not path.startswith(folder)}
            case unknown:
                raise Refusal(501, f"The double has no commit operation {unknown}")
    return files


class _Server(ThreadingHTTPServer):
    hub: HubDouble


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two small writes

    def _answer(self) -> None:
        hub = self.server.hub
        request = Request(self.command, self.path, self.headers, self._body())
        hub.requests.append(request)
        if drop := hub.dropped():
            self._hang_up(drop)
            return
        reply = hub.reply(request)
        self.send_response(reply.status)
        # one request per connection, since a kept connection would outlive stop()
        for name, value in {"Connection": "close", "Content-Length": str(len(reply.body)), **reply.headers}.items():
            self.send_header(name, value)
        with suppress(ConnectionError):  # from a client that did not wait
            self.end_headers()
            if self.command != "HEAD":
                time.sleep(hub.delay)
                self.wfile.write(reply.body)

    def _hang_up(self, drop: _Drop) -> None:
        time.sleep(drop.hold)
        self.close_connection = True
        with suppress(OSError):  # from a client that did not wait
            self.wfile.write(drop.sent)
            if drop.reset:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()

    do_HEAD = do_GET = do_POST = _answer

    def _body(self) -> bytes:
        if self.headers["Transfer-Encoding"] != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"] or 0))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the log is `HubDouble.requests`."""
