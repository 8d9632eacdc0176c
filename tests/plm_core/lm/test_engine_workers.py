"""Captioners and writers: functions, our models, pipelines of transformers, endpoints; prompts and replies."""

import base64
import io
import json
import pickle
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from PIL import Image

from plm_core import InputError, MissingDependency
from plm_core.lm.engine import Endpoint, LocalModel, PipelineModel, Prompts, WorkerError
from plm_core.lm.engine.endpoint import PAUSES
from plm_core.lm.engine.prompts import UnusableReply, parse_pairs, usable
from plm_core.lm.engine.workers import evenly, name_of, texts_of

PAIR = {"question": "what is it?", "answer": "a star"}


def picture(level=100, width=30, height=20):
    return Image.fromarray(np.full((height, width, 3), level, np.uint8))


def clip(frames=4):
    return torch.arange(frames, dtype=torch.uint8)[:, None, None, None].expand(frames, 20, 30, 3) * 10


# --- functions ---------------------------------------------------------------------------------------------------


def test_any_function_is_a_worker():
    def writer(prompts):
        return [prompt.upper() for prompt in prompts]

    assert texts_of(writer, ["a", "b"]) == ["A", "B"]
    assert texts_of(None, []) == [], "nothing is asked of nobody"
    assert name_of(writer).endswith("writer")
    assert name_of(LocalModel("plm_1b").caption) == "plm_1b"
    assert name_of(SimpleNamespace(name="named")) == "named"


@pytest.mark.parametrize("error", [ValueError("no\nluck"), RuntimeError("out of memory"), WorkerError("later")])
def test_what_a_function_raises_becomes_the_reason_of_each_item(error):
    def writer(prompts):
        raise error

    texts = texts_of(writer, ["a", "b"])
    assert len(texts) == 2
    assert all(isinstance(text, WorkerError) and str(error).splitlines()[0] in str(text) for text in texts)


def test_what_concerns_all_items_ends_the_work(one_line):
    for error in (InputError("the key is refused"), MissingDependency("no transformers")):
        with pytest.raises(type(error), match=str(error)):
            texts_of(lambda items, error=error: (_ for _ in ()).throw(error), ["a"])
    with one_line(InputError, "gives 1 texts for 2 items"):
        texts_of(lambda items: ["one"], ["a", "b"])
    with one_line(InputError, "gives str texts for 3 items"):
        texts_of(lambda items: "one", ["a", "b", "c"])
    with one_line(InputError, "gives int in the place of a text"):
        texts_of(lambda items: [1], ["a"])


def test_frames_are_thinned_out_evenly():
    assert evenly(torch.arange(9), 3).tolist() == [0, 4, 8]
    assert evenly(torch.arange(9), 1).tolist() == [0]
    assert evenly(torch.arange(2), 3).tolist() == [0, 1]


# --- our models --------------------------------------------------------------------------------------------------


class Answering:
    """Stands in for an assistant: it says what it is asked, and keeps it."""

    processor = SimpleNamespace(settings=SimpleNamespace(frame_limit=3))

    def __init__(self):
        self.asked = []

    def answers(self, prompts, batch_size, **generation):
        self.asked.append((prompts, batch_size, generation))
        return iter([SimpleNamespace(text=prompt.text) for prompt in prompts])


def test_a_local_model_sees_images_and_as_many_frames_as_it_takes():
    model = LocalModel(Answering(), batch_size=2, max_new_tokens=7)
    assert model.caption([picture(), clip(9)], "what?") == ["what?", "what?"]
    ((prompts, batch_size, generation),) = model.assistant.asked
    assert (batch_size, generation) == (2, {"max_new_tokens": 7})
    assert isinstance(prompts[0].media[0], Image.Image)
    assert prompts[1].media[0].source[:, 0, 0, 0].tolist() == [0, 40, 80]
    assert model.write(["why?"]) == ["why?"]
    assert not model.assistant.asked[1][0][0].media


def test_a_local_model_is_loaded_by_each_process(monkeypatch, one_line):
    from plm_core.lm.assistant import Assistant

    loads = []
    monkeypatch.setattr(Assistant, "from_pretrained", lambda *args, **options: loads.append((args, options)) or "it")
    model = LocalModel("plm_1b", device="cpu", settings={"max_tokens": 512})
    assert not loads, "nothing is loaded before it is needed"
    assert (model.assistant, model.assistant) == ("it", "it")
    assert loads == [(("plm_1b",), {"device": "cpu", "max_tokens": 512})]
    again = pickle.loads(pickle.dumps(model.caption)).__self__
    assert again.assistant == "it"
    assert len(loads) == 2
    with one_line(InputError, "name a model"):
        pickle.dumps(LocalModel(Answering()))


# --- pipelines ---------------------------------------------------------------------------------------------------


class Pipeline:
    """Stands in for a pipeline of transformers, with or without a chat template."""

    model = SimpleNamespace(name_or_path="org/captioner")

    def __init__(self, template, text="a star"):
        self.processor = self.tokenizer = SimpleNamespace(chat_template=template)
        self.text = text
        self.calls = []

    def __call__(self, **call):
        self.calls.append(call)
        if isinstance(self.text, Exception):
            raise self.text
        return [{"generated_text": self.text}]


def test_a_pipeline_describes_images_and_frames():
    pipeline = Pipeline("template")
    model = PipelineModel(pipeline, max_new_tokens=9)
    assert model.name == "org/captioner"
    assert model.caption([picture(), clip(3)], "what?") == ["a star"] * 2
    assert pipeline.calls[0]["generate_kwargs"] == {"max_new_tokens": 9, "do_sample": False}
    assert pipeline.calls[0]["return_full_text"] is False
    for call, count in zip(pipeline.calls, (1, 3), strict=True):
        ((message),) = call["text"]
        assert [part["type"] for part in message["content"]] == ["image"] * count + ["text"]
        assert message["content"][-1]["text"] == "what?"


def test_a_pipeline_without_a_chat_template(one_line):
    pipeline = Pipeline(None)
    model = PipelineModel(pipeline)
    assert model.caption([picture()], "a photo of") == ["a star"]
    assert pipeline.calls[0]["text"] == "a photo of"
    assert isinstance(pipeline.calls[0]["images"], Image.Image)
    with one_line(InputError, "takes one image alone"):
        model.caption([clip()], "what?")
    assert model.write(["why?"]) == ["a star"]
    assert pipeline.calls[-1]["text_inputs"] == "why?"


def test_a_pipeline_writes_and_fails():
    pipeline = Pipeline("template")
    assert PipelineModel(pipeline, "text-generation").write(["why?"]) == ["a star"]
    assert pipeline.calls[0]["text_inputs"] == [{"role": "user", "content": "why?"}]
    assert pipeline.calls[0]["max_new_tokens"] == 1024
    (text,) = PipelineModel(Pipeline("template", RuntimeError("out of memory"))).write(["why?"])
    assert isinstance(text, WorkerError)
    assert "out of memory" in str(text)


def test_a_pipeline_is_loaded_by_its_name(monkeypatch, one_line):
    loads = []
    library = SimpleNamespace(pipeline=lambda *args, **options: loads.append((args, options)) or print)
    monkeypatch.setitem(sys.modules, "transformers", library)  # importing the real one takes seconds
    model = PipelineModel("org/writer", "text-generation", device="cpu")
    assert model.pipeline is model.pipeline is print
    assert [args for args, _ in loads] == [("text-generation",)]
    assert loads[0][1]["model"] == "org/writer"
    assert pickle.loads(pickle.dumps(model)).pipeline is print
    with one_line(InputError, "name a model"):
        pickle.dumps(PipelineModel(Pipeline(None)))

    for error in (OSError("no such repository\nat all"), TypeError("no processor")):
        library.pipeline = lambda *args, error=error, **options: (_ for _ in ()).throw(error)
        with one_line(InputError, f"model 'org/writer' cannot be loaded: {str(error).splitlines()[0]}"):
            PipelineModel("org/writer").caption([picture()], "what?")


# --- endpoints ---------------------------------------------------------------------------------------------------


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.seen.append((self.path, self.headers.get("Authorization"), body))
            status, text = self.server.replies.pop(0) if len(self.server.replies) > 1 else self.server.replies[0]
        time.sleep(self.server.pause)
        completion = {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]}
        try:
            self.send_response(200 if status == "raw" else status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write((text if status == "raw" else json.dumps(completion)).encode())
        except OSError:  # the client has gone
            pass

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    """A server that answers with ``replies``, the last one for ever, and keeps what it is asked."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.replies, server.seen, server.lock, server.pause = [(200, "a star")], [], threading.Lock(), 0.0
    server.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_an_endpoint_is_sent_the_images(server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    endpoint = Endpoint(server.url, "vlm", parallel=1)
    assert endpoint.caption([picture(100), clip(3)], "what?") == ["a star"] * 2
    for (path, key, body), count in zip(server.seen, (1, 3), strict=True):
        assert path == "/v1/chat/completions"
        assert "hf_secret" not in str(key), "the token of the Hub is for the Hub"
        assert (body["model"], body["temperature"], body["max_tokens"]) == ("vlm", 0.0, 1024)
        *images, text = body["messages"][0]["content"]
        assert text == {"type": "text", "text": "what?"}
        assert len(images) == count
    url = server.seen[0][2]["messages"][0]["content"][0]["image_url"]["url"]
    assert url.startswith("data:image/jpeg;base64,")
    sent = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
    assert sent.size == (30, 20)
    assert abs(np.array(sent).mean() - 100) < 3


def test_an_endpoint_writes_in_order_and_in_parallel(server):
    server.pause = 0.1
    start = time.monotonic()
    endpoint = pickle.loads(pickle.dumps(Endpoint(server.url, "llm", "key", parallel=8)))
    assert endpoint.write([str(number) for number in range(8)]) == ["a star"] * 8
    assert time.monotonic() - start < 0.7
    assert {body["messages"][0]["content"] for _, _, body in server.seen} == set("01234567")
    assert {key for _, key, _ in server.seen} == {"Bearer key"}


def test_a_rate_limit_is_waited_for(server):
    pauses = []
    endpoint = Endpoint(server.url, "llm", parallel=1)
    endpoint.sleep = pauses.append
    server.replies = [(429, ""), (429, ""), (200, "at last")]
    assert endpoint.write(["why?"]) == ["at last"]
    assert pauses == [1.0, 2.0]
    server.replies = [(429, "")]
    (text,) = endpoint.write(["why?"])
    assert isinstance(text, WorkerError)
    assert pauses[2:] == list(PAUSES)


def test_one_failure_spares_the_other_texts(server):
    server.replies = [(200, "first"), (500, "oh"), ("raw", "no JSON"), ("raw", "[]"), (200, None), (200, "last")]
    texts = Endpoint(server.url, "llm", parallel=1).write(list("abcdef"))
    assert [text if isinstance(text, str) else None for text in texts] == ["first", None, None, None, "", "last"]
    assert "status 500" in str(texts[1])
    assert "no chat completion" in str(texts[2])


def test_an_endpoint_that_refuses_ends_the_work(server, monkeypatch, one_line):
    server.replies = [(401, "no")]
    with one_line(InputError, "status 401"):
        Endpoint(server.url, "llm").write(["why?"])
    with one_line(InputError, "base_url 'localhost' is not allowed"):
        Endpoint("localhost", "llm")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with one_line(InputError, "HF_HUB_OFFLINE"):
        Endpoint(server.url, "llm").write(["why?"])


def test_an_endpoint_that_does_not_answer_in_time_or_at_all(server):
    server.pause = 0.5
    (slow,) = Endpoint(server.url, "llm", timeout=0.1).write(["why?"])
    (absent,) = Endpoint("http://127.0.0.1:9/v1", "llm").write(["why?"])
    assert "does not answer" in str(slow)
    assert "does not answer" in str(absent)


# --- prompts and replies -----------------------------------------------------------------------------------------


def test_prompts_are_filled_in_once():
    prompts = Prompts(merge="{captions}|{notes}|{other}", questions='{number} {medium} [{"a": 1}] {caption}{notes}')
    assert prompts.merging("a {notes}", "") == "a {notes}||{other}"
    asked = prompts.asking("image", "{number} stars", "EXIT", 3)
    assert asked.startswith('3 image [{"a": 1}] {number} stars')
    assert asked.endswith("EXIT")
    assert "{" not in Prompts().merging("a star", "EXIT")
    for text in ("5 different", "a star", "EXIT", "one video", '[{"question": "...", "answer": "..."}]'):
        assert text in Prompts().asking("video", "a star", "EXIT", 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"merge": "one caption, please"}, r"'merge' has no \{captions\}"),
        ({"questions": "ask about {caption}"}, r"'questions' has no \{number\}"),
        ({"image": 3}, "'image' is 3, no text"),
    ],
)
def test_prompts_that_are_not_allowed(changes, message):
    with pytest.raises(InputError, match=message):
        Prompts(**changes)


@pytest.mark.parametrize(
    "reply",
    [
        json.dumps([PAIR]),
        f"Here [as asked] it is:\n```json\n{json.dumps([{**PAIR, 'kind': 'x'}])}\n```\nMore?",
        json.dumps({"questions": [PAIR]}),
        json.dumps([{"question": " what is it? ", "answer": "a star\n"}]),
        f"[] [1, 2] {json.dumps([PAIR])}",
    ],
)
def test_questions_are_found_in_a_reply(reply):
    assert parse_pairs(reply, 5) == [PAIR]


def test_more_questions_than_asked_for_are_left_out():
    assert len(parse_pairs(json.dumps([PAIR] * 5), 2)) == 2


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "I cannot help with that.",
        "[]",
        json.dumps(PAIR),
        json.dumps([PAIR])[:-3],
        json.dumps([PAIR, {"question": "why?"}]),
        json.dumps([{**PAIR, "answer": 3}]),
        json.dumps([{**PAIR, "answer": "  "}]),
        json.dumps([{**PAIR, "question": "what is in <image>?"}]),
        json.dumps([{**PAIR, "answer": "a star<|eot_id|>"}]),
        "[" * 100_000,
        "[1] " * 100_000,
    ],
)
def test_replies_that_are_no_questions(reply):
    with pytest.raises(UnusableReply):
        parse_pairs(reply, 5)


def test_texts_that_cannot_be_trained_on():
    assert usable(" a <b> star | 3 > 2\n") == "a <b> star | 3 > 2"
    for text in (" \n", "see <video>", "in <|bbox0|>"):
        with pytest.raises(UnusableReply):
            usable(text)
