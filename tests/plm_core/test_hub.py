"""Our functions, and timm's through them, make real huggingface_hub calls to the double of the Hub."""

import contextlib
import json
import logging
import os
import pickle
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants

import plm_core
from plm_core import InputError, cli, weights
from plm_core.errors import UnknownName, WeightsError
from plm_core.hub import HubFile, check_folder, fetch, push
from plm_core.testing.hub_client import offline
from plm_core.utils import licenses, network
from plm_core.weights import WeightsMismatch

MICRO = "hiera_micro_digits"
REPO = "org/name"
TINY = "hiera_image_tiny_224"
TINY_REPO = "facebook/hiera_tiny_224.mae_in1k_ft_in1k"
FILE = "model.safetensors"


@pytest.fixture(scope="module")
def model():
    """A model with random weights, so that no shipped file can pass for a served one. Tests do not change it."""
    return plm_core.create_model(MICRO)


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    weights.save_pretrained(model, folder, license="mit")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def folder(saved, tmp_path):
    """A model folder that a test may change."""
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, content in saved.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def sha(hub_double, saved):
    return hub_double.add(REPO, saved)


@pytest.fixture
def plm(monkeypatch, capsys):
    """Run the command line in this process and return exit code, stdout and stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["plm", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code or 0, *capsys.readouterr()

    return run


@contextlib.contextmanager
def one_line(error, *parts):
    with pytest.raises(error) as caught:
        yield caught
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def as_bytes(state, tmp_path):
    path = tmp_path / "bytes.safetensors"
    weights.write(state, path)
    return path.read_bytes()


def load(source):
    """Load by ``weights.load``."""
    into = plm_core.create_model(MICRO)
    weights.load(into, source)
    return into


def create(source):
    """Load by ``create_model``."""
    return plm_core.create_model(source, pretrained=True)


def by_timm(source):
    """Load by timm's own function."""
    return timm.create_model(f"hf-hub:{source}", pretrained=True)


ALL_WAYS = pytest.mark.parametrize("way", [load, create, by_timm])
OUR_WAYS = pytest.mark.parametrize("way", [load, create])


# --- names ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "repo", "revision"),
    [
        ("org/name", "org/name", None),
        ("hf-hub:org/name", "org/name", None),
        ("org/name@v1.0", "org/name", "v1.0"),
        ("hf-hub:facebook/hiera_tiny_224.mae_in1k@refs/pr/1", "facebook/hiera_tiny_224.mae_in1k", "refs/pr/1"),
        ("org/name@", "org/name", None),
        ("O-r.g/n_a.m-e", "O-r.g/n_a.m-e", None),
    ],
)
def test_names_of_repositories(text, repo, revision):
    assert HubFile.parse(text) == HubFile(repo, revision, FILE)


@pytest.mark.parametrize(
    "text",
    [
        *("", "name", "a/b/c", "/name", "org/", "./name", "../name", "~/name", "C:\\a/b", "ö/é", "-org/name"),
        *("org/na me", "org/na--me", "org/n..e", "org/name.git", f"org/{'x' * 97}"),
        *("local-dir:org/name", "hf-hub:hf-hub:org/name"),
    ],
)
def test_what_is_no_name_of_a_repository(text):
    assert HubFile.parse(text) is None
    if text:
        with one_line(WeightsError, "neither a file nor a repository"):
            load(text)


# --- downloads and the cache ------------------------------------------------------------------------------------


@ALL_WAYS
def test_first_download_warm_cache_and_offline(way, model, hub_double, sha, monkeypatch):
    expected = weights.fingerprint(model)
    assert weights.fingerprint(way(REPO)) == expected
    assert f"GET /{REPO}/resolve/main/{FILE}" in hub_double.calls
    hub_double.requests.clear()
    assert weights.fingerprint(way(REPO)) == expected
    assert {request.method for request in hub_double.requests} == {"HEAD"}
    hub_double.requests.clear()
    offline(monkeypatch)
    assert weights.fingerprint(way(REPO)) == expected
    assert hub_double.calls == []


def test_fetch_keeps_to_the_cache_of_huggingface_hub(hub_double, sha, saved, tmp_path):
    path = fetch(HubFile(REPO, file="config.json"))
    assert path.is_relative_to(constants.HF_HUB_CACHE)
    assert path.read_bytes() == saved["config.json"]
    assert fetch(HubFile(REPO), cache_dir=tmp_path / "elsewhere").is_relative_to(tmp_path / "elsewhere")


@OUR_WAYS
def test_offline_cold_names_repository_file_and_cache(way, hub_double, sha, monkeypatch):
    offline(monkeypatch)
    with one_line(WeightsError, REPO, "HF_HUB_OFFLINE is set", constants.HF_HUB_CACHE):
        way(REPO)
    assert hub_double.calls == []


@pytest.mark.parametrize("create", [plm_core.create_model, timm.create_model])
def test_offline_cold_entry_names_repository_file_and_cache(create, hub_double, monkeypatch):
    offline(monkeypatch)
    with one_line(WeightsError, f"{FILE} of {TINY_REPO}", "HF_HUB_OFFLINE is set", constants.HF_HUB_CACHE):
        create(TINY, pretrained=True, embed_dim=8, num_heads=1)


def test_offline_cold_model_of_timm(hub_double, monkeypatch):
    offline(monkeypatch)
    with one_line(WeightsError, "test_vit", "HF_HUB_OFFLINE is set", constants.HF_HUB_CACHE):
        plm_core.create_model("test_vit", pretrained=True)


@ALL_WAYS
@pytest.mark.parametrize("by", ["branch", "sha"])
def test_pinned_revision(way, by, model, hub_double, sha, saved):
    hub_double.add(REPO, saved, revision="v1")
    hub_double.add(REPO, {FILE: b"newer and broken"})
    assert weights.fingerprint(way(f"{REPO}@{'v1' if by == 'branch' else sha}")) == weights.fingerprint(model)
    with pytest.raises(WeightsError):
        way(REPO)


@OUR_WAYS
@pytest.mark.parametrize(
    ("source", "why"),
    [
        (f"{REPO}@nowhere", "no such revision"),
        (f"{REPO}@{'0' * 40}", "no such revision"),
        ("org/nothing", "no such repository"),
        ("org/gated", "access is gated; ask for it on the model's page, then 'hf auth login'"),
        ("org/empty", "the repository has no such file"),
    ],
)
def test_what_cannot_be_had(way, source, why, hub_double, sha, saved):
    hub_double.add("org/gated", saved, gated=True)
    hub_double.add("org/empty", {"README.md": b""})
    with one_line(WeightsError, source, why):
        way(source)


def test_a_repository_of_pickles_only_is_not_read_by_ours(model, hub_double, saved, tmp_path):
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    only_pickles = {"config.json": saved["config.json"], "pytorch_model.bin": tmp_path / "pytorch_model.bin"}
    hub_double.add(REPO, only_pickles)
    hub_double.add(TINY_REPO, only_pickles)
    with one_line(WeightsError, f"{FILE} of {REPO}", "the repository has no such file"):
        load(REPO)
    with one_line(WeightsError, f"{FILE} of {TINY_REPO}", "the repository has no such file"):
        timm.create_model(TINY, pretrained=True, embed_dim=8)
    assert not any("pytorch_model.bin" in call for call in hub_double.calls)
    # timm itself does read the pickle of a repository that no entry of ours names; our documents say so
    assert weights.fingerprint(create(REPO)) == weights.fingerprint(model)


# --- faults on the way ------------------------------------------------------------------------------------------


@ALL_WAYS
def test_a_truncated_body_is_refused_and_not_cached(way, model, hub_double, sha):
    hub_double.truncate(FILE, after=1000, times=None, silent=True)
    with one_line(WeightsError, REPO, "should be of size"):
        way(REPO)
    hub_double.heal()
    assert weights.fingerprint(way(REPO)) == weights.fingerprint(model)


def test_a_dropped_connection_is_resumed(model, hub_double, sha, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 4096)
    hub_double.truncate(FILE, after=10_000)
    assert weights.fingerprint(load(REPO)) == weights.fingerprint(model)
    assert hub_double.requests[-1].headers["Range"] == "bytes=8192-"


@ALL_WAYS
def test_a_failing_server_falls_back_to_the_cache(way, model, hub_double, sha):
    way(REPO)
    hub_double.add(REPO, {FILE: b"newer"})
    hub_double.fail(503)
    assert weights.fingerprint(way(REPO)) == weights.fingerprint(model)
    with hub_double.gone():
        assert weights.fingerprint(way(REPO)) == weights.fingerprint(model)


def test_a_failing_server_without_a_cache_is_tried_again(model, hub_double, sha):
    hub_double.fail(503, times=1)
    assert weights.fingerprint(load(REPO)) == weights.fingerprint(model)


@ALL_WAYS
def test_corrupt_safetensors(way, hub_double, sha, saved):
    for content in (b"", b"junk" * 100, saved[FILE][:-1]):
        hub_double.add(REPO, {FILE: content})
        with one_line(WeightsError, "Error while deserializing header"):
            way(REPO)


@ALL_WAYS
def test_a_missing_tensor(way, model, hub_double, sha, tmp_path):
    state = model.state_dict()
    del state["blocks.0.mlp.fc1.bias"]
    hub_double.add(REPO, {FILE: as_bytes(state, tmp_path)})
    with one_line(WeightsMismatch, "missing: blocks.0.mlp.fc1.bias"):
        way(REPO)


@ALL_WAYS
@pytest.mark.parametrize("layout", ["official", "transformers"])
def test_another_layout_is_recognised(way, layout, model, hub_double, sha, tmp_path):
    hub_double.add(REPO, {FILE: as_bytes(weights.export(model, layout), tmp_path)})
    assert weights.fingerprint(way(REPO)) == weights.fingerprint(model)


def test_a_wrong_layout_is_named(model, hub_double, sha):
    with one_line(WeightsMismatch, "layout 'official'", "the closest layout is 'native'"):
        weights.load(plm_core.create_model(MICRO), REPO, layout="official")


@pytest.mark.parametrize(
    ("config", "error", "part"),
    [
        (
            b"{",
            WeightsError,
            "cannot get hf-hub:org/name (and there is no folder 'org/name'): its config.json is not JSON",
        ),
        (
            b'{"architecture": "test_vit", "num_classes": "9"}',
            WeightsError,
            "its config.json has num_classes '9'; a whole",
        ),
        (b'{"model_type": "vit"}', WeightsError, "create it as 'transformers:org/name'"),
        (
            b'{"embed_dim": 96}',
            WeightsError,
            "no 'architecture'); create the model by name and use plm_core.weights.load",
        ),
        (b'{"architecture": "hiera_micro_digitz"}', UnknownName, f"did you mean '{MICRO}'"),
        (None, WeightsError, "the repository has no such file"),
    ],
)
def test_a_broken_config(config, error, part, hub_double, saved):
    hub_double.add(REPO, {FILE: saved[FILE]} | ({"config.json": config} if config is not None else {}))
    with one_line(error, part):
        create(REPO)


# --- publishing -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["hf-hub:org/new", "org/new", "org/new@{}", "hf-hub:org/new@{}"])
def test_push_then_load_gives_equal_tensors(source, model, hub_double, folder):
    commit = push(folder, "org/new").rpartition("/")[2]
    hub_double.add("org/new", {FILE: b"newer"}, revision="other")
    for way in (load, create):
        assert weights.fingerprint(way(source.format(commit))) == weights.fingerprint(model)


def test_push_keeps_classes_and_channels(hub_double, tmp_path):
    mine = plm_core.create_model(MICRO, num_classes=3, in_chans=1)
    weights.save_pretrained(mine, tmp_path / "mine", license="mit")
    push(tmp_path / "mine", "org/mine")
    for way in (create, by_timm):
        assert weights.fingerprint(way("org/mine")) == weights.fingerprint(mine)


def test_only_three_files_are_uploaded(hub_double, folder, saved):
    (folder / "notes.txt").write_text("private")
    (folder / ".env").write_text("private")
    for below in ("optimizer", ".git"):
        (folder / below).mkdir()
        (folder / below / FILE).write_bytes(b"x")
        (folder / below / "state.pt").write_bytes(b"x")
    push(folder, "org/new")
    assert hub_double.files("org/new") == saved


def test_the_record_and_the_curve_of_a_training_go_along_without_its_checkpoints(hub_double, folder, saved):
    training = {"training.json": b"{}", "curve.csv": b"step,loss\n", "curve.png": b"\x89PNG"}
    for name, content in training.items():
        (folder / name).write_bytes(content)
    (folder / "checkpoint-7").mkdir()
    (folder / "checkpoint-7" / FILE).write_bytes(b"x")
    (folder / "checkpoint-7" / "optimizer.pt").write_bytes(b"x")
    push(folder, "org/new")
    assert hub_double.files("org/new") == saved | training


def test_push_says_who_made_what_and_a_second_time_changes_nothing(hub_double, folder):
    first = push(folder, "org/new")
    assert f"Upload {MICRO} with plm".encode() in hub_double.requests[-1].body
    assert push(folder, "org/new") == first
    (folder / "README.md").write_text("---\nlicense: mit\n---\nmore\n")
    assert push(folder, "org/new", message="better words") != first
    assert b"better words" in hub_double.requests[-1].body


def test_push_can_be_private(hub_double, folder):
    push(folder, "org/new", private=True)
    assert json.loads(hub_double.requests[0].body)["visibility"] == "private"


CARD = "README.md"
BOMB = b"---\na0: &a0 [x]\n" + b"".join(
    b"a%d: &a%d [%s]\n" % (i, i, b",".join([b"*a%d" % (i - 1)] * 9)) for i in range(1, 9)
)
BOMB += b"license: *a8\n---\n"
UNFIT = {
    "no weights": (FILE, None, FILE),
    "no config": ("config.json", None, "config.json"),
    "no card": (CARD, None, CARD),
    "pickle beside": ("pytorch_model.bin", b"x", "pickled weights (pytorch_model.bin)"),
    "checkpoint beside": ("last.ckpt", b"x", "pickled weights (last.ckpt)"),
    "pickle in disguise": (FILE, pickle.dumps({"w": [1.0]}), "is not a readable safetensors file"),
    "weights cut": (FILE, b"\x08\0\0\0\0\0\0\0{}", "is not a readable safetensors file"),
    "config not JSON": ("config.json", b"{", "config.json"),
    "config a list": ("config.json", b"[]", "is not a JSON object"),
    "config of nothing": ("config.json", b"{}", "has no key 'architecture'"),
    "card empty": (CARD, b"", "license"),
    "card without front matter": (CARD, b"license: mit\n", "license"),
    "front matter not closed": (CARD, b"---\nlicense: mit\n", "license"),
    "front matter without license": (CARD, b"---\ntags: [a]\n---\n", "license"),
    "license a list": (CARD, b"---\nlicense: [mit]\n---\n", "license"),
    "YAML bomb": (CARD, BOMB, "license"),
    "card of a megabyte of brackets": (CARD, b"---\n" + b"[" * 10**6 + b"\n---\n", "license"),
    "config of wrong types": ("config.json", b'{"architecture": "x", "num_classes": []}', "has num_classes []"),
    "license empty": (CARD, b"---\nlicense:\n---\n", "license"),
    "front matter not YAML": (CARD, b"---\n: : [\n---\n", "license"),
    "front matter a list": (CARD, b"---\n- license\n---\n", "license"),
    "card not UTF-8": (CARD, b"---\nlicense: \xff\n---\n", "license"),
}


@pytest.mark.parametrize("fault", UNFIT)
def test_push_refuses_before_it_asks_the_hub(fault, hub_double, folder):
    name, content, part = UNFIT[fault]
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    with one_line(InputError, str(folder), part):
        push(folder, "org/new")
    assert hub_double.calls == []


@pytest.mark.parametrize("repo", ["", "name", "a/b/c", "org/name@v1", "hf-hub:org/name", "org/na--me", "org/na me"])
def test_push_refuses_a_bad_name(repo, hub_double, folder):
    with one_line(InputError, f"repo {repo!r} is not allowed: 'org/name' is"):
        push(folder, repo)
    assert hub_double.calls == []


@pytest.mark.parametrize("name", [CARD, FILE, "training.json"])
def test_push_sends_no_link_out_of_the_folder(name, hub_double, folder, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes((folder / name).read_bytes() if (folder / name).exists() else b"{}")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(secret)
    with one_line(InputError, f"{folder / name} is a link out of the folder, to {secret}"):
        push(folder, "org/new")
    assert hub_double.calls == []


def test_push_refuses_a_folder_that_is_not_there(tmp_path):
    with one_line(InputError, "is not a folder"):
        check_folder(tmp_path / "nowhere")


def test_push_errors_are_one_line_about_pushing(hub_double, folder, monkeypatch):
    hub_double.token = "another"
    with one_line(WeightsError, "cannot push to org/new", "401"):
        push(folder, "org/new")
    offline(monkeypatch)
    with one_line(WeightsError, "cannot push to org/new", "offline"):
        push(folder, "org/new")
    assert "org/new" not in hub_double.repos


def test_what_timm_pushed_is_read_by_ours(model, hub_double):
    timm.models.push_to_hf_hub(model, "org/timm")
    assert "pytorch_model.bin" in hub_double.files("org/timm")
    for way in (load, create, by_timm):
        assert weights.fingerprint(way("org/timm")) == weights.fingerprint(model)
    assert not any("pytorch_model.bin" in call for call in hub_double.calls if call.startswith("GET"))


# --- a public entry of full size --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The official file of the tiny image model, with random weights in half precision."""
    path = tmp_path_factory.mktemp("tiny") / FILE
    with torch.device("meta"):
        official = weights.export(plm_core.create_model(TINY), "official")
    weights.write({key: torch.rand(meta.shape, dtype=torch.bfloat16) for key, meta in official.items()}, path)
    return path


def test_a_public_entry_comes_through_the_hub_in_its_layout(tiny, hub_double, monkeypatch, caplog):
    monkeypatch.setattr(licenses, "_announced", set())
    hub_double.add(TINY_REPO, {FILE: tiny})
    with caplog.at_level(logging.WARNING, "plm_core"):
        model = timm.create_model(TINY, pretrained=True)
    served = weights.read(tiny)
    ours = weights.export(model, "official")
    assert ours.keys() == served.keys()
    assert all(torch.equal(ours[key], value.float()) for key, value in served.items())
    assert hub_double.calls == [f"{verb} /{TINY_REPO}/resolve/main/{FILE}" for verb in ("HEAD", "GET")]
    assert [r.getMessage() for r in caplog.records if "non-commercial" in r.getMessage()] == [
        f"weights {TINY}.mae_in1k_ft_in1k ({TINY_REPO}) are for non-commercial use: CC-BY-NC-4.0"
    ]


def test_plm_convert_from_the_hub(tiny, hub_double, plm, tmp_path):
    hub_double.add(TINY_REPO, {FILE: tiny})
    code, out, _ = plm("convert", TINY_REPO, tmp_path / "out.safetensors", "--to", "transformers")
    assert (code, out.splitlines()[1].split("\t")[:3]) == (0, [TINY, "official", "transformers"])
    served, written = weights.read(tiny), weights.read(tmp_path / "out.safetensors")
    assert len(written) == len(served)
    assert torch.equal(written["classifier.weight"], served["head.projection.weight"])
    assert torch.equal(written["hiera.pooler.layernorm.bias"], served["norm.bias"])


def test_a_public_entry_in_another_layout_is_refused(hub_double, tmp_path, monkeypatch):
    small = {"embed_dim": 8, "num_classes": 1000}
    exported = weights.export(plm_core.create_model(TINY, **small), "transformers")
    hub_double.add(TINY_REPO, {FILE: as_bytes(exported, tmp_path)})
    with one_line(WeightsMismatch, TINY, "layout 'official'", "the closest layout is 'transformers'"):
        timm.create_model(TINY, pretrained=True, **small)


def test_own_weights_are_not_announced_as_somebody_elses(hub_double, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(licenses, "_announced", set())
    mine = plm_core.create_model(TINY, embed_dim=8, num_classes=2)
    weights.save_pretrained(mine, tmp_path / "mine", license="mit")
    push(tmp_path / "mine", "org/mine")
    with caplog.at_level(logging.WARNING, "plm_core"):
        assert weights.fingerprint(create("org/mine")) == weights.fingerprint(mine)
        assert weights.fingerprint(create(f"local-dir:{tmp_path / 'mine'}")) == weights.fingerprint(mine)
    assert "non-commercial" not in caplog.text


# --- a Hub that does not answer ---------------------------------------------------------------------------------

LOOP = b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /loop\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture
def impatient(monkeypatch):
    """Wait no longer than a test may."""
    monkeypatch.setattr(network, "PAUSES", (0.0, 0.01, 0.01))
    monkeypatch.setattr(network, "TIMEOUT", 0.2)
    monkeypatch.setattr(logging.getLogger("huggingface_hub"), "propagate", True)  # which the command line changes


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ({}, "Server disconnected"),
        ({"reset": True}, "Connection reset"),
        ({"sent": b"garbage\r\n\r\n"}, "illegal status line"),
        ({"sent": b"HTTP/1.1 200 OK\r\nContent-Le"}, "Server disconnected"),
        ({"sent": LOOP}, "redirects"),
        ({"hold": 0.5}, "timed out"),
    ],
)
def test_a_dropped_connection_is_one_line_or_the_cache(fault, why, hub_double, sha, impatient, caplog):
    file = HubFile(REPO, file="config.json")
    hub_double.drop(**fault)
    with one_line(WeightsError, f"cannot get {file}: the Hub cannot be reached", why, constants.HF_HUB_CACHE):
        fetch(file)
    hub_double.heal()
    cached = fetch(file)
    hub_double.drop(**fault)
    hub_double.requests.clear()
    assert fetch(file) == cached
    assert len(hub_double.requests) == (20 if fault.get("sent") == LOOP else 1)  # asked once, since the cache has it
    assert not constants.HF_HUB_OFFLINE
    assert not caplog.records  # such as a line for each of huggingface_hub's own trials


def test_every_way_to_a_model_waits_as_little(model, hub_double, sha, impatient, caplog):
    hub_double.drop()
    for way in (load, create, lambda name: create(f"transformers:{name}")):
        with one_line(WeightsError, REPO, "the Hub cannot be reached", "Server disconnected"):
            way(REPO)
    hub_double.heal()
    hub_double.fail(503)
    hub_double.requests.clear()
    with one_line(WeightsError, "cannot get test_vit", "the Hub cannot be reached (status 503)"):
        create("test_vit")
    repo = timm.get_pretrained_cfg("test_vit").hf_hub_id
    assert hub_double.calls == [f"HEAD /{repo}/resolve/main/{FILE}"] * len(network.PAUSES)
    hub_double.heal()
    create(REPO)
    hub_double.drop()
    assert weights.fingerprint(create(REPO)) == weights.fingerprint(model)
    assert not caplog.records


def test_a_dry_run_of_push_sends_nothing(plm, folder, hub_double):
    (folder / "notes.txt").write_text("mine")
    code, out, err = plm("push", folder, REPO, "--dry-run")
    rows = [line.split("\t") for line in out.splitlines()[1:]]
    assert [row[0] for row in rows] == [FILE, "config.json", "README.md"]
    assert rows[0][1] == str((folder / FILE).stat().st_size)
    assert code == 0
    assert "nothing was sent" in err
    assert "repo 'name' is not allowed: 'org/name' is" in plm("push", folder, "name", "--dry-run")[2]
    (folder / "config.json").unlink()
    assert "lacks config.json" in plm("push", folder, REPO, "--dry-run")[2]
    assert not hub_double.requests


def test_a_hub_that_does_not_answer_is_not_taken_for_the_users_switch(hub_double, impatient, monkeypatch):
    hub_double.fail(503)
    for name in ("test_vit", TINY):  # of timm and of a plug-in
        with one_line(WeightsError, "the Hub cannot be reached (status 503)", constants.HF_HUB_CACHE):
            create(name)
    assert not constants.HF_HUB_OFFLINE
    offline(monkeypatch)
    with one_line(WeightsError, "HF_HUB_OFFLINE is set"):
        create(TINY)


def test_a_server_that_names_a_place_outside_of_the_cache_is_refused(hub_double, impatient):
    head = (
        b'HTTP/1.1 200 OK\r\nX-Repo-Commit: ../../../x\r\nETag: "a"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n'
    )
    hub_double.drop(sent=head)
    for way in (load, create, lambda name: plm_core.create_model(name, num_classes=3)):
        with one_line(WeightsError, REPO, "Invalid pointer path"):
            way(REPO)


def test_one_dropped_connection_is_no_error(model, hub_double, sha, impatient):
    hub_double.drop(times=2)
    assert weights.fingerprint(create(REPO)) == weights.fingerprint(model)


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_busy_server_is_asked_again_and_named(status, model, hub_double, sha, impatient):
    hub_double.fail(status)
    with one_line(WeightsError, REPO, f"the Hub cannot be reached (status {status})"):
        create(REPO)
    assert len(hub_double.requests) == len(network.PAUSES)
    hub_double.fail(status, times=2)
    assert weights.fingerprint(create(REPO)) == weights.fingerprint(model)


def test_the_patience_is_less_than_ten_seconds():
    assert sum(network.PAUSES) + network.TIMEOUT < 10


def test_a_pinned_file_in_the_cache_asks_nobody(model, hub_double, sha):
    create(f"{REPO}@{sha}")
    hub_double.requests.clear()
    assert weights.fingerprint(create(f"{REPO}@{sha}")) == weights.fingerprint(model)
    assert hub_double.calls == []


# --- secrets ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", ["hf_\u00f6\u00df", "hf_\udcff"])
def test_a_token_that_cannot_be_sent_is_named_and_not_shown(token, hub_double, sha, folder, impatient, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", token)
    for call in (lambda: create(REPO), lambda: load(REPO), lambda: push(folder, "org/new")):
        with one_line(WeightsError, "the token has characters that cannot be sent; check HF_TOKEN") as caught:
            call()
        assert token not in "".join(traceback.format_exception(caught.value))


def test_credentials_of_the_endpoint_are_not_shown(hub_double, sha, folder, impatient, monkeypatch, caplog, capfd):
    for name in ("ENDPOINT", "HUGGINGFACE_CO_URL_TEMPLATE"):
        value = getattr(constants, name).replace("http://", "http://user:p@ss:word@")
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", constants.ENDPOINT)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 4096)
    hub_double.token = "another"
    errors = []
    for call in (lambda: push(folder, "org/new"), lambda: load("org/gated@x"), lambda: create("org/nothing")):
        with one_line(WeightsError) as caught:
            call()
        errors.append("".join(traceback.format_exception(caught.value)))
    assert "http://***@127.0.0.1" in errors[0]
    hub_double.truncate(FILE, after=5000)  # huggingface_hub logs the address
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    load(REPO)
    out, err = capfd.readouterr()
    assert "***@127.0.0.1" in caplog.text
    for text in (*errors, out, err, caplog.text):
        assert "word" not in text.replace("password", "")


# --- the command line -------------------------------------------------------------------------------------------


def test_plm_push_prints_the_commit(model, hub_double, folder, plm):
    code, out, err = plm("push", folder, "org/new", "--private")
    commit = hub_double.repos["org/new"].refs["main"]
    assert (code, out, err) == (0, f"{hub_double.endpoint}/org/new/commit/{commit}\n", "")
    assert weights.fingerprint(load(f"org/new@{commit}")) == weights.fingerprint(model)


def test_the_command_line_does_not_repeat_the_lines_of_huggingface_hub(plm, monkeypatch):
    logger = logging.getLogger("huggingface_hub")
    monkeypatch.setattr(logger, "propagate", True)
    plm("--version")
    assert logger.handlers
    assert not logger.propagate


def test_plm_push_refuses(hub_double, folder, plm):
    (folder / "weights.pt").touch()
    code, out, err = plm("push", folder, "org/new")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("plm: error: folder")
    assert "weights.pt" in err


def test_plm_convert(model, plm, tmp_path):
    source, target = tmp_path / "source.pth", tmp_path / "target.safetensors"
    torch.save({"model_state": weights.export(model, "official")}, source)
    code, out, err = plm("convert", source, target, "--to", "timm", "--from", "official", "--model", MICRO)
    assert (code, err) == (0, "")
    assert out.splitlines()[1] == f"{MICRO}\tofficial\ttimm\t{len(model.state_dict())}\t{target}"
    assert weights.fingerprint(load(target)) == weights.fingerprint(model)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--to", "offical"], "did you mean 'official'"),
        (["--from", "offical"], "did you mean 'official'"),
        (["--from", "transformers"], "the closest layout is 'official'"),
        (["--model", "hiera_micro_digit"], f"did you mean '{MICRO}'"),
    ],
)
def test_plm_convert_says_what_is_wrong_in_one_line(arguments, part, model, plm, tmp_path):
    source = tmp_path / "source.safetensors"
    weights.save(model, source, "official")
    code, out, err = plm("convert", source, tmp_path / "target.safetensors", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("plm: error: ")
    assert part in err
    assert list(tmp_path.iterdir()) == [source]


def test_plm_convert_refuses_a_pickle_that_wants_to_run_code(plm, tmp_path):
    marker = tmp_path / "marker"
    (tmp_path / "evil.pth").write_bytes(b"cposix\nsystem\n(S'touch %s'\ntR." % os.fsencode(marker))
    code, out, err = plm("convert", tmp_path / "evil.pth", tmp_path / "out.safetensors")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "is refused" in err
    assert "posix.system" in err
    assert list(tmp_path.iterdir()) == [tmp_path / "evil.pth"]
    pickle.loads((tmp_path / "evil.pth").read_bytes())  # without the check the pickle would have run its code
    assert marker.exists()


# --- the client's settings stay its own ------------------------------------------------------------------------


def test_settings_of_huggingface_hub_are_left_alone(hub_double, sha, folder, monkeypatch):
    before = dict(os.environ), {k: v for k, v in vars(constants).items() if not callable(v)}
    create(REPO)
    push(folder, "org/new")
    assert (dict(os.environ), {k: v for k, v in vars(constants).items() if not callable(v)}) == before


MIRROR = """
from plm_core.hub import HubFile, fetch
print(fetch(HubFile("org/name", file="config.json")))
"""


def test_mirror_and_cache_come_from_the_environment(hub_double, sha, tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_ENDPOINT": hub_double.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    environment |= {"HF_HUB_DISABLE_TELEMETRY": "1"}
    run = subprocess.run([sys.executable, "-c", MIRROR], env=environment, capture_output=True, text=True, check=True)
    assert Path(run.stdout.strip()).is_relative_to(tmp_path / "home" / "hub")
    assert hub_double.calls == [f"{verb} /{REPO}/resolve/main/config.json" for verb in ("HEAD", "HEAD", "GET")]
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "other")}
    run = subprocess.run([sys.executable, "-c", MIRROR], env=environment, capture_output=True, text=True, check=False)
    assert f"HF_HUB_OFFLINE is set and the file is not in the cache {tmp_path / 'other' / 'hub'}" in run.stderr
