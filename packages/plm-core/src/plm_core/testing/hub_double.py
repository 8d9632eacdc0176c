"""A double of the Hugging Face Hub: its HTTP protocol over loopback, served from memory.

Real `huggingface_hub` calls (and what is built on them: `PyTorchModelHubMixin`, timm's `hf-hub:` names) run end to
end against it, so a test sees the client's own cache, retries and error classes. Model repositories only; uploads go
inline (no LFS, no Xet). Nothing here imports `huggingface_hub`: a test may be the first to do so.

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
    """One request as the client sent it; `headers` is looked up without regard to case."""

    method: str
    path: str
    headers: Message
    body: bytes


class Refusal(Exception):
    """An answer that is an error; the client tells errors apart by the `X-Error-Code` header."""

    def __init__(self, status: int, code: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(f"{status} {code}")
        self.reply = _Reply(code.encode(), status, {"X-Error-Code": code, **(headers or {})})


@dataclass
class Repo:
    """One repository: refs point at commits, a commit holds all its files."""

    refs: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: bool = False

    def at(self, revision: str) -> tuple[str, dict[str, bytes]]:
        """Return the commit that a branch or a full sha means, and its files."""
        sha = self.refs.get(revision, revision)
        if sha not in self.commits:
            raise Refusal(404, "RevisionNotFound")
        return sha, self.commits[sha]

    def commit(self, revision: str, files: dict[str, bytes]) -> str:
        """Make `files` the whole content of a new commit that `revision` points at."""
        tree = "".join(f"{_blob_oid(content)} {path}\n" for path, content in sorted(files.items()))
        # The count makes each commit new even where its content is not, as the date does in git.
        sha = hashlib.sha1(f"{len(self.commits)}\n{tree}".encode(), usedforsecurity=False).hexdigest()
        self.commits[sha], self.refs[revision] = files, sha
        return sha


class HubDouble:
    """A Hub of its own on a free loopback port, running while its `with` block does.

    Attributes:
        token: The only token that may write; `activate` hands it to the client.
        repos: The store, repository id to `Repo`, for whatever `add` and `files` do not reach.
        requests: Every request since the start or the last `requests.clear()`.
        delay: Seconds to wait between the head and the body of each answer.
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
        """Listen, on the port of the last time if there was one."""
        self._server = _Server((HOST, self._port), _Handler)
        self._server.hub = self
        self._port = self._server.server_port
        # stop() waits for one poll: the default of half a second would add up over a test suite.
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Refuse connections; the store stays, for `start` to serve again."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def endpoint(self) -> str:
        """The URL to give as `HF_ENDPOINT`."""
        return f"http://{HOST}:{self._port}"

    @property
    def calls(self) -> list[str]:
        """The logged requests as `"METHOD /path"`, the shape that tests compare."""
        return [f"{request.method} {request.path}" for request in self.requests]

    def activate(self, monkeypatch: "pytest.MonkeyPatch", home: Path) -> None:
        """Make `huggingface_hub` of this process and of its children talk to this double until the undo.

        Args:
            monkeypatch: Undoes everything, also in modules that are first imported in between.
            home: The client's `HF_HOME`: a new folder gives an empty cache.
        """
        bypass = ",".join(filter(None, (os.environ.get("no_proxy") or os.environ.get("NO_PROXY"), HOST)))
        inherited = [name for name in os.environ if name.startswith(("HF_", "HUGGINGFACE_", "HUGGING_FACE_"))]
        client = {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_TOKEN": self.token,
            "NO_PROXY": bypass,
            "no_proxy": bypass,
        }
        disabled = {f"HF_HUB_DISABLE_{what}": "1" for what in ("PROGRESS_BARS", "TELEMETRY", "UPDATE_CHECK", "XET")}
        set_environment(monkeypatch, dict.fromkeys([*inherited, "TRANSFORMERS_OFFLINE"]) | client | disabled)

    # The store

    def add(self, repo: str, files: Mapping[str, bytes | Path], revision: str = "main", gated: bool = False) -> str:
        """Commit files on top of those that `revision` holds, creating repository and branch as needed.

        Args:
            repo: Repository id, such as `"org/model"`.
            files: Path in the repository to content, or to a file to read it from.
            revision: Branch to move; a new one starts empty.
            gated: Whether the repository's files are refused to everybody from now on.

        Returns:
            The sha of the new commit.
        """
        stored = self.repos.setdefault(repo, Repo())
        stored.gated = gated
        held = stored.commits.get(stored.refs.get(revision, ""), {})
        read = {path: data.read_bytes() if isinstance(data, Path) else data for path, data in files.items()}
        return stored.commit(revision, held | read)

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        """Return what a revision holds, path to content."""
        return dict(self._find(repo).at(revision)[1])

    # The faults

    def heal(self) -> None:
        """Take back every fault but `stop` and a gated repository."""
        self._failure: tuple[Iterator[bool], int] = _strikes(0), 0
        self._cuts: dict[str, tuple[Iterator[bool], int, bool]] = {}
        self.delay = 0.0

    def fail(self, status: int = 503, times: int | None = None) -> None:
        """Answer the next `times` requests (None: all until `heal`) with an error status.

        Where nothing is cached the client repeats after a 5xx: the second time at once, then with pauses, which the
        answer's `Retry-After` keeps at a second each.
        """
        self._failure = _strikes(times), status

    def truncate(self, path: str, after: int, times: int | None = 1, silent: bool = False) -> None:
        """Cut downloads of a file short.

        Args:
            path: Path in the repository, in whichever repository.
            after: Position in the file at which its bytes stop.
            times: How many downloads to cut; None: all until `heal`.
            silent: Announce the cut length as right, so that only the size in the HEAD answer tells; the client then
                refuses at once. Otherwise the connection drops, and the client asks again after a second: by `Range`
                if it holds a whole `DOWNLOAD_CHUNK_SIZE` (10 MiB; patch it in `huggingface_hub.constants`) by then.
        """
        self._cuts[path] = _strikes(times), after, silent

    @contextmanager
    def gone(self) -> Iterator[None]:
        """Refuse connections inside the `with` block; with nothing cached the client insists for 23 seconds."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    # The protocol: what each route answers, the named parts of its path as keyword arguments

    def reply(self, request: Request) -> "_Reply":
        """Answer a request, faults included."""
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
        headers = {"X-Repo-Commit": sha}  # on a missing file too: the client then caches the absence
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
        wanted = json.loads(request.body)
        repo = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
        exists = repo in self.repos
        if not exists:
            self.add(repo, {})
        return _json({"url": f"{self.endpoint}/{repo}"}, 409 if exists else 200)

    def _validate(self, request: Request) -> "_Reply":
        return _json({"errors": [], "warnings": []})

    def _preupload(self, request: Request, repo: str, rev: str) -> "_Reply":
        self._authorize(request)
        held = self._find(repo).at(rev)[1]
        paths = [file["path"] for file in json.loads(request.body)["files"]]
        # The oid lets the client drop unchanged files from the commit.
        oids = {path: _blob_oid(held[path]) if path in held else None for path in paths}
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


@dataclass
class _Reply:
    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


def _json(value: Any, status: int = 200) -> _Reply:
    return _Reply(json.dumps(value).encode(), status, {"Content-Type": "application/json"})


def _strikes(times: int | None) -> Iterator[bool]:
    # An iterator is a counter that the server's threads can share without a lock.
    return repeat(True) if times is None else repeat(True, times)


def _blob_oid(content: bytes) -> str:
    # As git names a blob: the client computes the same, to compare.
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _apply(operations: bytes, held: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files held, changed by the operations in the body of a commit request."""
    files = dict(held)
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
        reply = hub.reply(request)
        self.send_response(reply.status)
        # One request per connection: a kept connection would outlive stop().
        for name, value in {"Connection": "close", "Content-Length": str(len(reply.body)), **reply.headers}.items():
            self.send_header(name, value)
        with suppress(ConnectionError):  # of a client that did not wait
            self.end_headers()
            if self.command != "HEAD":
                time.sleep(hub.delay)
                self.wfile.write(reply.body)

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
