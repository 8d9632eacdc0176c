"""Judges: the comparison of words, an endpoint on this machine that fails in many ways, a local pipeline."""

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from huggingface_hub import constants

from plm_core.errors import InputError
from plm_core.videobench.judge import PAUSES, Case, EndpointJudge, JudgeError, LocalJudge, StringJudge
from plm_core.videobench.parsing import answer_verdict, caption_score

CAPTION = Case("caption", "a man walks in", "The man walks out.")
ANSWER = Case("answer", "a red cup", "Red cup.", "What is it?")


# --- the comparison of words --------------------------------------------------------------------------------------


def test_the_string_judge_compares_words_and_says_so():
    judge = StringJudge()
    assert "no language model" in judge.name
    assert answer_verdict(judge.reply(ANSWER)) is True
    assert answer_verdict(judge.reply(Case("answer", "a red cup", "a cup, red"))) is False
    assert caption_score(judge.reply(CAPTION)) == pytest.approx(0.67)  # 2 of 3 words, of 3
    assert caption_score(judge.reply(Case("caption", "walks", ""))) == 0
    assert caption_score(judge.reply(Case("caption", "", ""))) == 0
    assert caption_score(judge.reply(Case("caption", "he sits", "Sits he!"))) == 1


# --- an endpoint --------------------------------------------------------------------------------------------------


class Endpoint(ThreadingHTTPServer):
    """An endpoint of chat completions that answers by a list of (status, text), the last one for ever."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies = [(200, "fine")]
        self.pause = 0.0
        self.seen = []
        self.lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.seen.append((self.path, self.headers.get("Authorization"), body))
            status, text = self.server.replies[0]
            if len(self.server.replies) > 1:
                self.server.replies.pop(0)
        time.sleep(self.server.pause)
        completion = {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]}
        answer = (text if status == 299 else json.dumps(completion)).encode()
        try:
            self.send_response(200 if status == 299 else status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(answer)
        except OSError:  # the client has gone
            pass

    def log_message(self, *args):
        pass


@pytest.fixture
def endpoint(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_hub")
    server = Endpoint()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def judge(endpoint):
    """Return a judge at the endpoint, which notes its pauses in the place of waiting."""
    judge = EndpointJudge(endpoint.url, "llama", timeout=5)
    judge.paused = []
    judge.sleep = judge.paused.append
    return judge


def test_an_endpoint_is_asked_by_the_protocol(endpoint, judge):
    endpoint.replies = [(200, '{"score": 7}')]
    assert judge.reply(CAPTION) == '{"score": 7}'
    [(path, key, body)] = endpoint.seen
    assert path == "/v1/chat/completions"
    assert "hf_of_the_hub" not in key
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("llama", 0, 256)
    assert "a man walks in" in body["messages"][1]["content"]
    EndpointJudge(endpoint.url, "llama", "secret").reply(ANSWER)
    assert endpoint.seen[1][1] == "Bearer secret"
    assert "Right answer: a red cup" in endpoint.seen[1][2]["messages"][1]["content"]
    assert judge.name == "llama at an endpoint, plain prompts"


def test_only_a_rate_limit_is_waited_for(endpoint, judge, one_line):
    endpoint.replies = [(429, "slow down"), (429, "slow down"), (200, "fine")]
    assert judge.reply(CAPTION) == "fine"
    assert judge.paused == [1, 2]
    endpoint.replies = [(429, "slow down")]
    with one_line(JudgeError, "rate limit is still reached after 5 pauses"):
        judge.reply(CAPTION)
    assert judge.paused[2:] == list(PAUSES) == [1, 2, 4, 8, 16]
    endpoint.replies, endpoint.seen[:] = [(500, "broken")], []
    with one_line(JudgeError, "the judge answers with status 500"):
        judge.reply(CAPTION)
    assert len(endpoint.seen) == 1


def test_a_timeout_is_no_reply(endpoint, one_line):
    endpoint.pause = 0.5
    with one_line(JudgeError, "the judge does not answer"):
        EndpointJudge(endpoint.url, "llama", timeout=0.05).reply(CAPTION)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"choices": []}', '{"choices": 3}', '"text"'])
def test_an_answer_of_another_form_is_no_reply(endpoint, judge, text, one_line):
    endpoint.replies = [(299, text)]
    with one_line(JudgeError, "the judge"):
        judge.reply(CAPTION)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_ends_the_work(endpoint, judge, status, one_line):
    endpoint.replies = [(status, "no")]
    with one_line(InputError, f"the judge answers with status {status}"):
        judge.reply(CAPTION)


def test_an_endpoint_that_is_not_there(endpoint, monkeypatch, one_line):
    with one_line(JudgeError, "the judge does not answer"):
        EndpointJudge("http://127.0.0.1:9/v1", "llama").reply(CAPTION)
    with one_line(InputError, "base_url 'localhost:8000' is not allowed"):
        EndpointJudge("localhost:8000", "llama")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with one_line(InputError, "HF_HUB_OFFLINE"):
        EndpointJudge(endpoint.url, "llama").reply(CAPTION)


# --- a local model ------------------------------------------------------------------------------------------------


def test_a_pipeline_judges_greedily(one_line):
    calls = []

    def pipeline(messages, **options):
        calls.append((messages, options))
        return [{"generated_text": '{"pred": "no"}'}]

    judge = LocalJudge(pipeline)
    assert judge.reply(ANSWER) == '{"pred": "no"}'
    assert calls[0][1] == {"max_new_tokens": 256, "do_sample": False, "return_full_text": False}
    assert "on this machine" in judge.name

    def broken(messages, **options):
        raise RuntimeError("out of memory\nat 0x1")

    with one_line(JudgeError, "the judge fails (out of memory)"):
        LocalJudge(broken).reply(ANSWER)


def test_a_local_model_is_loaded_by_its_name(monkeypatch, one_line):
    """transformers is a double here, since its pipelines take ten seconds to import."""

    def pipeline(task, model, device):
        if model == "none":
            raise OSError("none is not a local folder\nand no model on the Hub")
        return lambda messages, **options: [{"generated_text": f"{task} {model} {device}"}]

    monkeypatch.setitem(sys.modules, "transformers", SimpleNamespace(pipeline=pipeline))
    judge = LocalJudge("llama", "cpu")
    assert judge.reply(ANSWER) == "text-generation llama cpu"
    assert judge.name == "llama on this machine, plain prompts"
    with one_line(InputError, "judge 'none' cannot be loaded: none is not a local folder"):
        LocalJudge("none", "cpu")
