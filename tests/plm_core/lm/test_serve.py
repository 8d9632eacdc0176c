"""``plm serve``: the folder that servers read gives our answers, and the server of transformers gives them by HTTP."""

import base64
import io
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, GenerationConfig
from transformers.utils.import_utils import is_serve_available

from plm_core import InputError, NotSupported, WeightsError, lm
from plm_core.lm import serving
from plm_core.lm.configs import MICRO
from plm_core.lm.pretrained import save_transformers, timm_tower, transformers_config


def free_port():
    with socket.create_server(("localhost", 0)) as free:
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def tensors(assistant):
    """The tiny model with pixels as transformers resamples them, which differ from the original's by rounding."""
    return lm.Assistant(assistant.model, assistant.processor.with_settings(path="tensor"))


@pytest.fixture(scope="module")
def folder(tensors, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    save_transformers(tensors.model, folder)
    tensors.processor.save_pretrained(folder)
    return folder


def asked(text, image):
    return [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": text}]}]


@pytest.mark.parametrize("mode", ["thumb+tile", "vanilla"])
def test_transformers_reads_our_answers_from_the_folder(tensors, tmp_path, picture, mode):
    ours = lm.Assistant(tensors.model, tensors.processor.with_settings(mode=mode, mean=(0.4, 0.5, 0.6)))
    save_transformers(ours.model, tmp_path)
    ours.processor.save_pretrained(tmp_path)
    processor = AutoProcessor.from_pretrained(tmp_path)
    inputs = processor.apply_chat_template(
        asked("what is it?", picture(100, 70)),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    own = ours.processor("what is it?", [picture(100, 70)])
    assert torch.equal(inputs["input_ids"], own["input_ids"])
    torch.testing.assert_close(inputs["pixel_values"].flatten(0, 1), own["pixel_values"])
    model = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits, ours.model(**own).logits, rtol=1e-4, atol=1e-4)
    ids = model.generate(**inputs, max_new_tokens=6)[0, inputs["input_ids"].shape[1] :]
    assert ours.processor.decode(ids) == ours.ask("what is it?", [picture(100, 70)], max_new_tokens=6).text


def test_the_folder_says_where_an_answer_ends(folder, tensors):
    config = GenerationConfig.from_pretrained(folder)
    assert config.eos_token_id == tensors.processor.stop_ids
    assert config.pad_token_id == tensors.processor.encoder.pad_id


def test_a_number_of_tokens_that_transformers_cannot_tile_leaves_its_file_out(tensors, tmp_path):
    tensors.processor.with_settings(tokens=5).save_pretrained(tmp_path)
    assert not (tmp_path / serving.PROCESSOR_FILE).exists()
    assert lm.Processor.from_pretrained(tmp_path).settings.tokens == 5


def test_the_tower_of_the_micro_model_is_one_of_timm(tmp_path):
    torch.manual_seed(0)
    model = lm.build(MICRO)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    save_transformers(model, tmp_path)
    theirs = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    pixels = torch.randn(2, 3, 48, 48)
    ids = torch.full((1, 20), MICRO["image_token_id"])
    ids[0, 18:] = 5
    with torch.no_grad():
        expected = model.eval()(input_ids=ids, pixel_values=pixels).logits
        torch.testing.assert_close(theirs(input_ids=ids, pixel_values=pixels[None]).logits, expected)
        again = lm.from_pretrained(tmp_path)
        torch.testing.assert_close(again(input_ids=ids, pixel_values=pixels).logits, expected)


def test_towers_that_timm_does_not_have():
    pooled = lm.build({**MICRO, "vision_config": {"architecture": "hiera_micro_digits"}})
    with pytest.raises(NotSupported, match="'hiera_micro_digits' is of hiera"):
        transformers_config(pooled)
    assert timm_tower({"use_ln_post": True, "output_dim": None}) is None
    assert timm_tower({"use_ln_post": False, "output_dim": 64}) is None


# --- what is served -----------------------------------------------------------------------------------------------


def test_what_transformers_reads_is_served_as_it_is(folder, hub_double):
    assert serving.servable(str(folder)) == str(folder)
    config = {"config.json": folder / "config.json"}
    for repo in ("org/name", "facebook/Perception-LM-1B", "facebook/Perception-LM-8B"):
        hub_double.add(repo, config)
    assert serving.servable("org/name@main") == "org/name@main"
    assert serving.servable("plm_1b") == "facebook/Perception-LM-1B"
    assert serving.servable("plm_8b.fb") == "facebook/Perception-LM-8B"
    hub_double.add("facebook/Perception-LM-3B", config, gated=True)
    with pytest.raises(WeightsError, match="access is gated"):
        serving.servable("plm_3b")


def test_what_it_does_not_read_is_written_to_the_cache(tensors, folder, tmp_path, picture):
    save_transformers(tensors.model, tmp_path)
    tensors.processor.save_pretrained(tmp_path)
    (tmp_path / serving.PROCESSOR_FILE).unlink()
    written = serving.servable(str(tmp_path))
    assert os.environ["PLM_CACHE"] in written
    assert serving.servable(str(tmp_path)) == written
    assert serving.servable(written) == written
    again = lm.Assistant.from_pretrained(written).ask("what?", [picture()], max_new_tokens=4)
    assert again == tensors.ask("what?", [picture()], max_new_tokens=4)


def test_a_folder_is_written_for_servers(plm, folder, tmp_path):
    out = tmp_path / "for servers"
    result = plm("serve", folder, "--write", out)
    assert result.code == 0
    assert result.out.splitlines() == [
        f"transformers serve '{out}'",
        f"vllm serve '{out}' --model-impl transformers",
    ]
    assert result.err.splitlines()[-1] == f"wrote {out.resolve()}"
    assert {path.name for path in out.iterdir()} >= {"config.json", "model.safetensors", serving.PROCESSOR_FILE}
    with pytest.raises(InputError, match="is the model itself"):
        serving.servable(str(folder), folder)


def test_what_cannot_be_served_is_one_line(plm, folder, tensors, tmp_path, monkeypatch):
    assert plm("serve", folder, "--dtype", "int8").err.startswith("plm: error: dtype 'int8' is not allowed")
    monkeypatch.setattr("transformers.utils.import_utils.is_serve_available", lambda: False)
    lacking = plm("serve", folder)
    assert lacking.code == 2
    assert "install transformers[serving]" in lacking.err
    monkeypatch.setattr("transformers.utils.import_utils.is_serve_available", lambda: True)
    assert "did you mean" in plm("serve", "plm_b1").err
    with socket.create_server(("localhost", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port} of 'localhost' cannot be used" in plm("serve", folder, "--port", port).err


def test_the_server_gets_the_model_and_its_place(plm, folder, monkeypatch):
    calls = []
    monkeypatch.setattr("transformers.utils.import_utils.is_serve_available", lambda: True)
    monkeypatch.setattr("transformers.cli.serve.Serve", lambda **options: calls.append(options))
    port = free_port()
    result = plm("serve", folder, "--port", port, "--device", "cpu", "--dtype", "bf16")
    assert result.code == 0
    assert calls == [
        {"force_model": str(folder), "host": "localhost", "port": port, "device": "cpu", "dtype": "bfloat16"}
    ]
    assert f"http://localhost:{port}/v1/chat/completions" in result.err


@pytest.mark.slow
@pytest.mark.skipif(not is_serve_available(), reason="transformers[serving] is not installed")
def test_a_program_gets_our_answer_by_http(folder, tensors, picture):
    port = free_port()
    command = f"from plm_core.cli import main; import sys; sys.argv = ['plm', 'serve', {str(folder)!r}, '--device', "
    server = subprocess.Popen([sys.executable, "-c", f"{command}'cpu', '--port', '{port}']; main()"])
    try:
        _wait(f"http://localhost:{port}/health", server)
        told = _post(f"http://localhost:{port}/v1/chat/completions", picture(100, 70))
    finally:
        server.terminate()
        server.wait(30)
    own = tensors.ask("what is it?", [picture(100, 70)], max_new_tokens=6)
    assert told["choices"][0]["message"]["content"].strip() == own.text
    assert told["usage"]["prompt_tokens"] == own.prompt_tokens


def _wait(address, server):
    for _ in range(240):
        assert server.poll() is None, "the server ended"
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            time.sleep(0.5)
    pytest.fail("the server did not start")


def _post(address, image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "what is it?"}]
    body = json.dumps({"messages": [{"role": "user", "content": content}], "max_tokens": 6}).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)
