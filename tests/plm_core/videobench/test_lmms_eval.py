"""The adapter by which lmms-eval drives a model of ours, with a double of its interface."""

import sys
from dataclasses import dataclass, field
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from plm_core.errors import InputError, MissingDependency, NotSupported
from plm_core.videobench import lmms_eval as adapter


@dataclass
class Instance:
    """What lmms-eval hands over: the arguments are the prompt, options, pictures, document, task and split."""

    request_type: str
    arguments: tuple
    idx: int
    metadata: dict = field(default_factory=dict)

    @property
    def args(self):
        return self.arguments


@pytest.fixture
def library(monkeypatch):
    """Install a double of lmms-eval's base class, registry and manifest; return its registry."""
    registry = {}

    class Base:
        def __init__(self):
            self.cache_hook = SimpleNamespace(add_partial=lambda *args: self.cached.append(args))
            self.cached = []
            self.task_dict = {}

        @classmethod
        def create_from_arg_string(cls, text, options=None):
            return cls(**dict(pair.split("=") for pair in text.split(",")), **(options or {}))

    def register_model(*names):
        return lambda kind: registry.update(dict.fromkeys(names, kind)) or kind

    for name, values in {
        "lmms_eval": {},
        "lmms_eval.api": {},
        "lmms_eval.models": {},
        "lmms_eval.api.model": {"lmms": Base},
        "lmms_eval.api.registry": {"register_model": register_model},
        "lmms_eval.models.registry_v2": {"ModelManifest": SimpleNamespace},
    }.items():
        module = ModuleType(name)
        vars(module).update(values)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(vars(adapter), "AnswererModel", raising=False)
    yield registry
    vars(adapter).pop("AnswererModel", None)


def instance(document, visual, **options):
    arguments = (f"ask {document}", options, lambda doc: [visual(doc)], document, "rcap_test", "test")
    return Instance("generate_until", arguments, document)


@pytest.fixture
def lmm(library, model):
    """Return the adapter of a model that repeats the prompt and counts the frames."""
    model.answer = lambda requests: (
        model.requests.extend(requests) or [f"{request.prompt}: {len(request.frames)}" for request in requests]
    )
    lmm = adapter.model_class()(model, batch_size="2", frames="8")
    lmm.task_dict = {"rcap_test": {"test": [{"video": i} for i in range(4)]}}
    return lmm


def picture(shade, size=(6, 4)):
    return Image.new("RGB", size, (shade, 0, 0))


def test_frames_and_video_files_become_requests(lmm, model, clips):
    answers = lmm.generate_until(
        [
            instance(0, lambda doc: [picture(doc["video"]), picture(9)], max_new_tokens=16, temperature=0),
            instance(2, lambda doc: [str(clips / "a.mp4")]),
            instance(1, lambda doc: picture(doc["video"])),
        ]
    )
    assert answers == ["ask 0: 2", "ask 2: 8", "ask 1: 1"]
    first, second, _ = model.requests
    assert first.frames.shape == (2, 4, 6, 3)
    assert first.frames[:, 0, 0, 0].tolist() == [0, 9]
    assert (first.max_new_tokens, first.boxed, first.video) == (16, True, None)
    assert (second.max_new_tokens, second.boxed, second.video) == (256, False, clips / "a.mp4")
    assert [args[2] for args in lmm.cached] == answers


def test_the_class_is_registered_by_name_and_by_manifest(library, monkeypatch, model):
    monkeypatch.setattr("plm_core.videobench.answering.resolve", lambda reference: lambda *args, **options: model)
    kind = adapter.register()
    assert library == {"plm_core": kind}
    assert adapter.manifest().simple_class_path == "plm_core.videobench.lmms_eval.AnswererModel"
    assert adapter.AnswererModel is kind
    assert kind.is_simple
    assert kind.create_from_arg_string("model=plm_1b,device=cpu", {"batch_size": 3}).answerer is model


def test_what_an_answerer_cannot_do_is_one_line(lmm, clips, one_line):
    def refuse(requests):
        raise InputError("beyond the context")

    with one_line(NotSupported, "no likelihoods"):
        lmm.loglikelihood([])
    with one_line(NotSupported, "single questions"):
        lmm.generate_until_multi_round([])
    with one_line(NotSupported, "pictures of 2 sizes"):
        lmm.generate_until([instance(0, lambda doc: [picture(1), picture(1, (5, 5))])])
    with one_line(NotSupported, "no pictures and no video"):
        lmm.generate_until([instance(0, lambda doc: np.zeros(3))])
    with one_line(InputError, "is not a file"):
        lmm.generate_until([instance(0, lambda doc: str(clips / "none.mp4"))])
    lmm.answerer.answer = refuse
    with one_line(InputError, "task 'rcap_test', document 0: beyond the context"):
        lmm.generate_until([instance(0, lambda doc: picture(1))])


@pytest.mark.skipif(find_spec("lmms_eval") is not None, reason="lmms-eval is installed")
def test_without_lmms_eval_the_class_cannot_be_had(one_line):
    with one_line(MissingDependency, "needs the module 'lmms_eval', which is not installed"):
        adapter.model_class()
    with pytest.raises(AttributeError, match="no attribute 'Other'"):
        _ = adapter.Other
