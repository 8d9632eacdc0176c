"""The double against the real client: every route and every fault, through calls of `huggingface_hub`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants, errors, hf_hub_download
from huggingface_hub.utils import _cache_manager, _http, get_session
from huggingface_hub.utils import tqdm as hf_tqdm

from plm_core.testing.hub_client import offline
from plm_core.testing.hub_double import HubDouble

REPO = "org/model"
WEIGHTS = bytes(range(256)) * 8
FILES = {"config.json": b"{}", "sub dir/model.safetensors": WEIGHTS}
HEAD_CONFIG = "HEAD /org/model/resolve/main/config.json"
GET_CONFIG = "GET /org/model/resolve/main/config.json"


def fetch(path="config.json", revision=None, repo=REPO):
    return Path(hf_hub_download(repo, path, revision=revision)).read_bytes()


def cached_blobs():
    return [path for path in Path(constants.HF_HUB_CACHE).rglob("blobs/*") if path.is_file()]


@pytest.fixture
def sha(hub_double):
    return hub_double.add(REPO, FILES)


# --- downloads and the cache ------------------------------------------------------------------------------------


def test_first_download_is_head_then_get(hub_double, sha):
    assert fetch() == b"{}"
    assert hub_double.calls == [HEAD_CONFIG, GET_CONFIG]


def test_file_in_quoted_folder(hub_double, sha):
    assert fetch("sub dir/model.safetensors") == WEIGHTS
    assert hub_double.calls[0] == "HEAD /org/model/resolve/main/sub%20dir/model.safetensors"


def test_warm_cache_asks_by_head_only(hub_double, sha):
    fetch()
    hub_double.requests.clear()
    assert fetch() == b"{}"
    assert hub_double.calls == [HEAD_CONFIG]


def test_pinned_commit_in_cache_asks_nothing(hub_double, sha):
    fetch(revision=sha)
    hub_double.requests.clear()
    assert fetch(revision=sha) == b"{}"
    assert hub_double.calls == []


def test_pinned_commit_keeps_old_bytes(hub_double, sha):
    newer = hub_double.add(REPO, {"config.json": b"new"})
    assert newer != sha
    assert hub_double.add(REPO, FILES, revision="again") not in (sha, newer)
    assert fetch(revision=sha) == b"{}"
    assert fetch() == b"new"
    assert hub_double.files(REPO, sha) == FILES
    assert hub_double.files(REPO)["sub dir/model.safetensors"] == WEIGHTS


def test_branch_with_slash(hub_double, sha, tmp_path):
    (tmp_path / "branch.json").write_bytes(b"branch")
    hub_double.add(REPO, {"config.json": tmp_path / "branch.json"}, revision="feature/x")
    assert fetch(revision="feature/x") == b"branch"
    assert fetch() == b"{}"


def test_range_request(hub_double, sha):
    url = huggingface_hub.hf_hub_url(REPO, "sub dir/model.safetensors")
    response = get_session().get(url, headers={"Range": "bytes=10-19"})
    assert response.status_code == 206
    assert response.headers["content-range"] == "bytes 10-19/2048"
    assert response.content == WEIGHTS[10:20]


def test_snapshot_download(hub_double, sha):
    folder = Path(huggingface_hub.snapshot_download(REPO))
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == set(FILES)
    assert all((folder / path).read_bytes() == content for path, content in FILES.items())
    assert hub_double.calls[:2] == [
        "GET /api/models/org/model/revision/main",
        f"GET /api/models/org/model/tree/{sha}?recursive=true&expand=false",
    ]
    hub_double.requests.clear()
    huggingface_hub.snapshot_download(REPO)
    assert hub_double.calls == ["GET /api/models/org/model/revision/main"]


def test_questions_about_a_repository(hub_double, sha):
    assert huggingface_hub.file_exists(REPO, "config.json")
    assert not huggingface_hub.file_exists(REPO, "other.json")
    assert huggingface_hub.repo_exists(REPO)
    assert not huggingface_hub.repo_exists("org/other")
    info = huggingface_hub.model_info(REPO)
    assert (info.id, info.sha) == (REPO, sha)
    assert {sibling.rfilename for sibling in info.siblings} == set(FILES)
    tree = {file.path: file for file in huggingface_hub.list_repo_tree(REPO, recursive=True)}
    assert {path: file.size for path, file in tree.items()} == {path: len(data) for path, data in FILES.items()}
    assert tree["config.json"].blob_id == "9e26dfeeb6e641a33dae4961196235bdb965b21b"  # from git hash-object


# --- offline ----------------------------------------------------------------------------------------------------


def test_offline_warm(hub_double, sha, monkeypatch):
    fetch()
    hub_double.requests.clear()
    with monkeypatch.context() as patch:
        offline(patch)
        assert huggingface_hub.is_offline_mode()
        assert os.environ["HF_HUB_OFFLINE"] == "1"
        assert fetch() == b"{}"
        assert hub_double.calls == []
    assert not huggingface_hub.is_offline_mode()
    fetch()
    assert hub_double.calls == [HEAD_CONFIG]


def test_offline_cold(hub_double, sha, monkeypatch):
    offline(monkeypatch)
    with pytest.raises(errors.LocalEntryNotFoundError):
        fetch()
    assert hub_double.calls == []


# --- what cannot be had -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"revision": "nowhere"}, errors.RevisionNotFoundError),
        ({"revision": "0" * 40}, errors.RevisionNotFoundError),
        ({"path": "other.json"}, errors.RemoteEntryNotFoundError),
        ({"repo": "org/other"}, errors.RepositoryNotFoundError),
        ({"repo": "org/gated"}, errors.GatedRepoError),
    ],
)
def test_error_classes(hub_double, sha, arguments, error):
    hub_double.add("org/gated", FILES, gated=True)
    with pytest.raises(error) as caught:
        fetch(**arguments)
    assert caught.type is error


def test_absence_is_cached(hub_double, sha):
    with pytest.raises(errors.RemoteEntryNotFoundError):
        fetch("other.json")
    assert huggingface_hub.try_to_load_from_cache(REPO, "other.json") is huggingface_hub._CACHED_NO_EXIST


def test_unknown_route_says_so(hub_double):
    with pytest.raises(errors.HfHubHTTPError, match="The double has no POST /api/models/org/model/tag/main"):
        huggingface_hub.create_tag(REPO, tag="v1")


# --- faults -----------------------------------------------------------------------------------------------------


def test_short_body_is_refused(hub_double, sha):
    hub_double.truncate("sub dir/model.safetensors", after=100, times=None, silent=True)
    for _ in range(2):
        with pytest.raises(OSError, match="should be of size 2048 but has size 100"):
            fetch("sub dir/model.safetensors")
    assert cached_blobs() == []
    hub_double.heal()
    assert fetch("sub dir/model.safetensors") == WEIGHTS


def test_dropped_connection_is_resumed(hub_double, sha, monkeypatch):
    # The client drops an unfinished chunk, and a chunk is 10 MiB.
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 64)
    hub_double.truncate("sub dir/model.safetensors", after=100)
    assert fetch("sub dir/model.safetensors") == WEIGHTS
    assert [request.headers["Range"] for request in hub_double.requests] == [None, None, "bytes=64-"]


def test_server_error_falls_back_to_the_cache(hub_double, sha):
    fetch()
    hub_double.requests.clear()
    hub_double.add(REPO, {"config.json": b"new"})
    hub_double.fail(500)
    assert fetch() == b"{}"
    assert hub_double.calls == [HEAD_CONFIG]
    answer = get_session().get(hub_double.endpoint)
    assert (answer.status_code, answer.headers["retry-after"]) == (500, "0")
    hub_double.heal()
    assert fetch() == b"new"


def test_server_error_is_over_after_its_times(hub_double, sha):
    hub_double.fail(times=1)
    assert fetch() == b"{}"
    assert hub_double.calls == [HEAD_CONFIG, HEAD_CONFIG, GET_CONFIG]


def test_refused_connection_falls_back_to_the_cache(hub_double, sha):
    fetch()
    endpoint = hub_double.endpoint
    hub_double.requests.clear()
    with hub_double.gone():
        assert fetch() == b"{}"
        with pytest.raises(_http.httpx2.ConnectError):
            get_session().get(endpoint)
    assert hub_double.calls == []
    assert hub_double.endpoint == endpoint
    assert fetch() == b"{}"
    assert hub_double.calls == [HEAD_CONFIG]


def test_slow_body_times_out(hub_double, sha):
    hub_double.delay = 0.5
    with pytest.raises(_http.httpx2.ReadTimeout):
        get_session().get(huggingface_hub.hf_hub_url(REPO, "config.json"), timeout=0.1)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({}, "RemoteProtocolError"),
        ({"sent": b"garbage\r\n\r\n"}, "RemoteProtocolError"),
        ({"sent": b"HTTP/1.1 200 OK\r\nContent-Le"}, "RemoteProtocolError"),
        ({"reset": True}, "ReadError"),
        ({"hold": 0.3}, "ReadTimeout"),
    ],
)
def test_dropped_connections(hub_double, sha, fault, error):
    hub_double.drop(times=1, **fault)
    with pytest.raises(getattr(_http.httpx2, error)):
        get_session().head(hub_double.endpoint, timeout=0.2)
    assert fetch() == b"{}"
    hub_double.drop(**fault)
    hub_double.heal()
    assert fetch() == b"{}"


# --- uploads ----------------------------------------------------------------------------------------------------


def push(folder, **arguments):
    return huggingface_hub.upload_folder(repo_id="org/new", folder_path=folder, **arguments)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "push"
    (folder / "sub").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Model\n")
    (folder / "sub" / "weights.bin").write_bytes(WEIGHTS)
    (folder / "empty").touch()
    return folder


@pytest.fixture
def pushed(hub_double, folder):
    assert huggingface_hub.create_repo("org/new").repo_id == "org/new"
    return push(folder)


def test_push_then_download_gives_equal_bytes(hub_double, folder, pushed):
    stored = hub_double.files("org/new")
    assert set(stored) == {"README.md", "sub/weights.bin", "empty"}
    assert all((folder / path).read_bytes() == content for path, content in stored.items())
    assert fetch("sub/weights.bin", repo="org/new", revision=pushed.oid) == WEIGHTS
    commits = [request for request in hub_double.requests if request.path == "/api/models/org/new/commit/main"]
    assert len(commits) == 1
    assert commits[0].headers["content-type"] == "application/x-ndjson"
    assert b"Upload folder" in commits[0].body


def test_second_push_commits_what_changed(hub_double, folder, pushed):
    assert push(folder).oid == pushed.oid
    (folder / "empty").write_bytes(b"no more")
    hub_double.requests.clear()
    assert push(folder, delete_patterns="sub/*", allow_patterns=["README.md", "empty"]).oid != pushed.oid
    commit = hub_double.requests[-1].body
    assert [json.loads(line)["key"] for line in commit.splitlines()] == ["header", "deletedFile", "file"]
    assert set(hub_double.files("org/new")) == {"README.md", "empty"}
    assert hub_double.files("org/new")["empty"] == b"no more"
    assert hub_double.files("org/new", pushed.oid)["empty"] == b""


def test_deletions(hub_double, pushed):
    huggingface_hub.delete_file("README.md", "org/new")
    assert set(hub_double.files("org/new")) == {"sub/weights.bin", "empty"}
    huggingface_hub.delete_folder("sub", "org/new")
    assert set(hub_double.files("org/new")) == {"empty"}


def test_pull_request_leaves_main_alone(hub_double, folder, pushed):
    (folder / "empty").write_bytes(b"proposed")
    answer = push(folder, create_pr=True)
    assert answer.pr_num == 1
    assert hub_double.files("org/new")["empty"] == b""
    assert fetch("empty", repo="org/new", revision=answer.pr_revision) == b"proposed"


def test_create_repo_twice(hub_double):
    assert huggingface_hub.create_repo("mine").repo_id == "me/mine"
    hub_double.add("me/mine", {"kept": b""})
    assert huggingface_hub.create_repo("mine", exist_ok=True).repo_id == "me/mine"
    with pytest.raises(errors.HfHubHTTPError, match="409"):
        huggingface_hub.create_repo("me/mine")
    assert len(hub_double.repos["me/mine"].commits) == 2


def test_chunked_request_body(hub_double):
    url, headers = f"{hub_double.endpoint}/api/repos/create", {"authorization": f"Bearer {hub_double.token}"}
    body = [b'{"organization": "org",', b' "name": "chunked"}']
    assert get_session().post(url, headers=headers, content=iter(body)).json()["url"].endswith("/org/chunked")
    assert hub_double.requests[-1].headers["transfer-encoding"] == "chunked"
    assert hub_double.requests[-1].body == b"".join(body)


def test_token_is_sent_and_needed_to_write(hub_double, sha):
    fetch()
    assert {request.headers["authorization"] for request in hub_double.requests} == {f"Bearer {hub_double.token}"}
    assert huggingface_hub.whoami()["name"] == "me"
    with pytest.raises(errors.HfHubHTTPError, match="401"):
        huggingface_hub.create_repo("org/new", token="hf_other")
    assert "org/new" not in hub_double.repos


# --- activation -------------------------------------------------------------------------------------------------


def client_state():
    plain = {name: value for name, value in vars(constants).items() if not callable(value)}
    # Newer versions keep the hosts that may see the token in such a set.
    origins = {name: value for name, value in vars(_http).items() if isinstance(value, frozenset)}
    derived = huggingface_hub.hf_api.api.endpoint, origins
    copies = _cache_manager.HF_HUB_CACHE, sys.modules[hf_tqdm.__module__].HF_HUB_DISABLE_PROGRESS_BARS
    return plain, derived, copies, dict(os.environ)


def test_constants_are_as_before_after_deactivation(tmp_path):
    before = client_state()
    with HubDouble() as hub, pytest.MonkeyPatch.context() as patch:
        hub.activate(patch, tmp_path)
        # A test's own patch on top must not bring the double's value back.
        patch.setattr(constants, "HF_HUB_CACHE", "elsewhere")
        patch.setenv("HF_TOKEN", "elsewhere")
        offline(patch)
        active = client_state()
        session = get_session()
    assert all(was != now for was, now in zip(before, active, strict=True))
    assert active[0]["HUGGINGFACE_CO_URL_TEMPLATE"].startswith(f"{hub.endpoint}/")
    assert active[0]["HF_HUB_CACHE"] == "elsewhere"
    assert active[0]["HF_TOKEN_PATH"] == str(tmp_path / "token")
    assert active[1][0] == hub.endpoint
    assert active[2] == (str(tmp_path / "hub"), True)
    assert client_state() == before
    assert session.is_closed


def test_inherited_settings_do_not_count(tmp_path, monkeypatch):
    for name in ("HF_HUB_CACHE", "HF_TOKEN_PATH", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.setenv(name, "inherited")
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_IMPLICIT_TOKEN"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("no_proxy", "internal")
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.invalid:9")
    with HubDouble() as hub:
        hub.add(REPO, FILES)
        hub.activate(monkeypatch, tmp_path)
        assert fetch() == b"{}"
        assert {request.headers["authorization"] for request in hub.requests} == {f"Bearer {hub.token}"}
    assert {path.name for path in tmp_path.iterdir()} >= {"hub"}
    assert os.environ["NO_PROXY"] == os.environ["no_proxy"] == "internal,127.0.0.1"


def test_two_doubles_at_once(hub_double, sha):
    with HubDouble() as other:
        assert huggingface_hub.repo_exists(REPO)
        assert not huggingface_hub.HfApi(other.endpoint).repo_exists(REPO)
        assert len(hub_double.requests) == len(other.requests) == 1


FIRST_IMPORT = """
import sys
from pathlib import Path
import pytest
from plm_core.testing.hub_double import HubDouble
with HubDouble() as hub, pytest.MonkeyPatch.context() as patch:
    hub.add("org/model", {"config.json": b"{}"})
    hub.activate(patch, Path(sys.argv[1]))
    assert not any(name.startswith("huggingface_hub") for name in sys.modules)
    from huggingface_hub import cli, constants, hf_api, hf_hub_download, utils
    from huggingface_hub.cli import auth
    assert auth.ENDPOINT == constants.ENDPOINT == hf_api.api.endpoint == hub.endpoint
    assert Path(hf_hub_download("org/model", "config.json")).is_relative_to(sys.argv[1])
origins = [value for value in vars(utils._http).values() if isinstance(value, frozenset)]
settings = repr([vars(constants), hf_api.api.endpoint, auth.ENDPOINT, origins])
assert sys.argv[1] not in settings and "127.0.0.1" not in settings, settings
assert auth.ENDPOINT == constants.ENDPOINT == hf_api.api.endpoint == "https://huggingface.co"
assert constants.HF_HUB_DISABLE_XET is False
"""


def test_first_import_while_active_leaves_nothing_behind(tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    subprocess.run([sys.executable, "-c", FIRST_IMPORT, str(tmp_path)], env=environment, check=True)


def test_children_inherit_the_double(hub_double, sha):
    code = "from huggingface_hub import hf_hub_download; print(hf_hub_download('org/model', 'config.json'))"
    path = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    assert path.startswith(constants.HF_HUB_CACHE)
    assert hub_double.calls == [HEAD_CONFIG, GET_CONFIG]
