"""Token and password of HF_ENDPOINT are in no output, error, log or file; commands without a Hub open no socket."""

import logging
import random
import socket
import traceback

import pytest
import torch
from huggingface_hub import constants
from PIL import Image

import plm_core
from plm_core import hub, weights
from plm_core.utils import network

pytestmark = pytest.mark.timeout(1800)  # at full length
TOKEN = "hf_SECRETtokenSECRET"
PASSWORD = "SECRETpass@word"
REPO = "org/name"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("secrets") / "model"
    weights.save_pretrained(plm_core.create_model("test_vit", num_classes=2), folder, "mit")
    Image.new("RGB", (8, 8)).save(folder.parent / "x.png")
    return folder


def commands(folder, out):
    """Commands that read and write what they can, some of which fail."""
    image = folder.parent / "x.png"
    return (
        ("predict", f"hf-hub:{REPO}", image, "--out", out / "a.json"),
        ("push", folder, "org/forbidden"),
        ("convert", REPO, out / "b.safetensors", "--model", "test_vit"),
        ("predict", f"transformers:{REPO}", image),
        ("predict", "org/missing", image),
        ("predict", f"hf-hub:{REPO}@nowhere", image, "--json"),
        ("push", folder, REPO),
        ("info", f"hf-hub:{REPO}"),
        ("bench", f"hf-hub:{REPO}", "--runs", "1", "--batch-size", "1"),
    )


LOCAL = (
    *(
        ("list",),
        ("list", "hiera*", "--json"),
        ("info", "hiera_micro_digits"),
        ("train", "--list"),
        ("--help",),
        ("--version",),
    ),
    ("predict", "FOLDER", "IMAGE"),
    ("predict", "hiera_micro_digits", "IMAGE", "--json"),
    ("convert", "FOLDER", "OUT/c.safetensors", "--model", "test_vit"),
    ("predict", "FOLDER/nowhere", "IMAGE"),
    ("push", "FOLDER/nowhere", "org/name"),
    ("push", "FOLDER", "not a name"),
)


@pytest.fixture
def secret(hub_double, monkeypatch):
    """Put a token into the environment and a password into the endpoint."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for name in ("ENDPOINT", "HUGGINGFACE_CO_URL_TEMPLATE"):
        monkeypatch.setattr(constants, name, getattr(constants, name).replace("http://", f"http://user:{PASSWORD}@"))
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", constants.ENDPOINT)
    monkeypatch.setenv("HF_ENDPOINT", constants.ENDPOINT)
    monkeypatch.setattr(network, "PAUSES", (0.0, 0.0))
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    return hub_double


def break_it(double, rng):
    double.heal()
    double.token = rng.choice((TOKEN, "another"))
    fault = rng.choice(("none", "none", "drop", "fail", "truncate"))
    if fault == "drop":
        double.drop(rng.choice((1, None)), rng.choice((b"", b"garbage\r\n\r\n")))
    elif fault == "fail":
        double.fail(rng.choice((400, 401, 403, 404, 429, 500)), rng.choice((1, None)))
    elif fault == "truncate":
        double.truncate("model.safetensors", 500, rng.choice((1, None)))


def leak(text):
    return next((text[max(0, i - 80) : i + 80] for word in ("SECRET", PASSWORD) if (i := text.find(word)) >= 0), None)


@pytest.mark.trials(short=4, long=120)
def test_nothing_shows_the_secrets(drill, trials, folder, secret, plm, tmp_path, monkeypatch, caplog):
    rng = random.Random(31)
    monkeypatch.setattr(logging.getLogger("huggingface_hub"), "propagate", True)
    secret.add(REPO, {path.name: path for path in folder.iterdir()})
    caplog.set_level(logging.INFO)
    lines = commands(folder, tmp_path)
    for number in range(trials):
        break_it(secret, rng)
        words = lines[number % len(lines)]
        result = drill.command(f"{number}: {words[:2]}", plm(*words))
        found = leak(result.out + result.err + caplog.text)
        drill.expect(f"{number}: {words[:2]}", not found, f"shown: {found}")
        caplog.clear()
        try:
            hub.push(folder, "org/other") if number % 2 else hub.fetch(hub.HubFile("org/other"))
        except Exception as error:
            found = leak("".join(traceback.format_exception(error)))
            drill.expect(f"{number}: traceback", not found, f"shown: {found}")
    wrote = [path for path in (tmp_path, folder) for path in path.rglob("*") if path.is_file()]
    kept = [path for path in wrote if leak(path.read_bytes().decode("latin-1"))]
    drill.expect("files", not kept, f"in files: {kept}")


def test_commands_without_a_hub_open_no_socket(drill, folder, plm, tmp_path, monkeypatch):
    asked = []

    def connect(self, address, *rest):
        asked.append(address)
        raise OSError("no network in this drill")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *where, **options: asked.append(where) or [])
    torch.manual_seed(0)
    places = {"FOLDER": str(folder), "IMAGE": str(folder.parent / "x.png"), "OUT": str(tmp_path)}
    for words in LOCAL:
        for name, place in places.items():
            words = [word.replace(name, place) for word in words]
        drill.command(f"{words[:2]}", plm(*words))
        drill.expect(f"{words[:2]}", not asked, f"asked {asked[:2]}")
        asked.clear()
