"""Hostile config.json files and names: a model that works, or one line; no code runs, and nothing is written."""

import copy
import json
import random
from functools import partial

import pytest
import torch
from torch import nn

import plm_core
from plm_core import weights

pytestmark = pytest.mark.timeout(1800)  # at full length
MODELS = {"test_vit": 2, "hiera_micro_digits": 10}
ODD = (
    *(None, True, False, 0, -1, 1, 2, 3, 7, 10**6 + 1, 10**30, -(10**18), 0.5, -0.0, 1e-320, 1e308, "", "x", "0", "2"),
    *(
        "test_vit",
        "hiera_micro_digits",
        "resnet9000",
        "../../etc/passwd",
        "/etc/passwd",
        "a\nplm: error: fake",
        "\x1b[2J",
    ),
    *(
        "\ud800",
        "\u202e",
        "ÿ" * 300,
        "x" * 10**5,
        "{x}",
        "%s",
        [],
        {},
        [0],
        [3, 0, 0],
        [3, 32, 32],
        ["x"],
        [None],
        [[]],
    ),
    *(
        {"x": 1},
        {"0": "a"},
        {"__class__": "x"},
        ["a", "b"],
        ["a", "\x07"],
        [1e9, 1],
        "http://127.0.0.1:9/x",
        "posix:system",
    ),
)
KEYS = (
    *(
        "url",
        "file",
        "hf_hub_id",
        "hf_hub_filename",
        "source",
        "state_dict",
        "custom_load",
        "tag",
        "colour",
        "pretrained",
    ),
    *("checkpoint_path", "features_only", "pretrained_cfg_overlay", "in_chans", "embed_dim", "depth", "num_heads", ""),
)
RAW = (
    *(b"", b"{", b"[]", b"null", b"1", b'"x"', b"\xff\xfe{}", b"\xef\xbb\xbf{}", b"{}", b'{"a":}', b"NaN", b"\0" * 64),
    *(b"[" * 10**5, b'{"a":' * 10**5, b'{"architecture": NaN}', b'{"architecture": 1%s}' % (b"0" * 5000)),
    *(b'{"architecture": "test_vit", "architecture": 3}', b'{"architecture": "test_vit"}{"x": 1}'),
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folders = []
    for name, classes in MODELS.items():
        folder = tmp_path_factory.mktemp("config") / name
        model = plm_core.create_model(name, num_classes=classes)
        weights.save_pretrained(model, folder, "mit", labels=[f"class {i}" for i in range(classes)])
        folders.append(folder)
    return folders


def places(config):
    """Every object and list in a config."""
    yield config
    for value in config.values() if isinstance(config, dict) else config:
        if isinstance(value, dict | list):
            yield from places(value)


def mutant(config, rng):
    config = copy.deepcopy(config)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        place = rng.choice([place for place in places(config) if place or isinstance(place, dict)])
        value = copy.deepcopy(rng.choice(ODD))
        if rng.random() < 0.1:
            for _ in range(rng.choice((3, 200))):
                value = [value] if rng.random() < 0.5 else {"x": value}
        if isinstance(place, list):
            place[rng.randrange(len(place))] = value
        elif rng.random() < 0.2 and place:
            del place[rng.choice(list(place))]
        else:
            place[rng.choice([*place, *KEYS])] = value
    return json.dumps(config).encode("utf-8", "surrogatepass")


def is_usable(model):
    """Whether a model that was created answers for its own input, and its preprocessing can be had."""
    plm_core.transform_for(model)
    return isinstance(model, nn.Module)


def attempt(drill, case, name, whole, **keywords):
    """Create a model, and try what is created; a random head in a loaded model is a fault."""

    def create():
        model = plm_core.create_model(name, pretrained=True, **keywords)
        assert is_usable(model)
        return model

    model = drill.attempt(case, create)
    if isinstance(model, nn.Module) and not keywords:
        state = {key: value for key, value in model.state_dict().items() if key in whole and "pos_embed" not in key}
        wrong = [key for key, value in state.items() if not torch.equal(value, whole[key])]  # positions may be resized
        drill.expect(case, not wrong, f"other weights than those of the file: {wrong[:3]}")


def snapshot(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.trials(short=40, long=1000)
def test_local_folders(drill, trials, folders, tmp_path, monkeypatch):
    """A config.json with fields of the wrong kind, in a folder with whole weights."""
    rng = random.Random(12)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    before = snapshot(tmp_path)
    contents = list(RAW)
    for number in range(trials):
        folder = folders[number % len(folders)]
        text = (
            contents.pop()
            if contents and number % 3 == 0
            else mutant(json.loads((folder / "config.json").read_text()), rng)
        )
        (tmp_path / "model" / "config.json").write_bytes(text)
        link = tmp_path / "model" / "model.safetensors"
        link.unlink(missing_ok=True)
        link.symlink_to(folder / "model.safetensors")
        keywords = {"num_classes": 3} if number % 7 == 0 else {}
        attempt(drill, f"{number}: {text[:600]!r}", "local-dir:model", weights.read(folder), **keywords)
    after = {path for path in snapshot(tmp_path) if path.parent != tmp_path / "model"}
    drill.expect("writes", after == before.keys(), f"files appeared: {after}")


@pytest.mark.trials(short=8, long=300)
def test_repositories(drill, trials, folders, hub_double):
    """The same in a repository of the Hub."""
    rng = random.Random(13)
    contents = list(RAW)
    for number in range(trials):
        folder = folders[number % len(folders)]
        text = (
            contents.pop()
            if contents and number % 2 == 0
            else mutant(json.loads((folder / "config.json").read_text()), rng)
        )
        hub_double.add("org/odd", {"config.json": text, "model.safetensors": folder / "model.safetensors"})
        attempt(drill, f"{number}: {text[:600]!r}", "hf-hub:org/odd", weights.read(folder))


SOURCES = (
    "",
    "hf-hub:",
    "hf_hub:",
    "local-dir:",
    "transformers:",
    "torchvision:",
    "HF-HUB:",
    "x:",
    ":",
    "local-dir:local-dir:",
)
PARTS = (
    *(
        "",
        "a",
        "a/b",
        "a/b/c",
        "../..",
        "/",
        "~",
        "~x",
        ".",
        "a b",
        "a@b",
        "@",
        "a/b@",
        "a/b@c@d",
        "\0",
        "\n",
        "\x1b[2J",
    ),
    *(
        "\ud800",
        "é/ü",
        "%2e%2e/x",
        "x" * 300,
        "a/" + "b" * 97,
        "test_vit",
        "test_vit.x",
        "*",
        "?",
        "[",
        "{",
        "resnet18.x",
        "-",
    ),
)


@pytest.mark.trials(short=60, long=2000)
def test_names(drill, trials, tmp_path, monkeypatch):
    """Names of models with typing errors, and worse, without a network."""
    rng = random.Random(14)
    monkeypatch.chdir(tmp_path)
    for number in range(trials):
        name = rng.choice(SOURCES) + "".join(rng.choice(PARTS) for _ in range(rng.choice((1, 1, 2, 3))))
        if name.partition(".")[0] in ("test_vit", "torchvision:resnet18"):
            continue  # a model, whose weights are not at hand
        drill.attempt(f"{number}: {name[:200]!r}", partial(plm_core.create_model, name, rng.random() < 0.5))
    drill.expect("writes", not list(tmp_path.iterdir()), "files appeared")
