"""The models that match a pattern, and how they are created."""

import logging
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from parc.ranking.candidates import Candidate, expand_patterns, has_trained_head, make_model, size_of
from plm_core.errors import InputError, NotSupported, UnknownName, WeightsError
from plm_core.weights import fingerprint


def names(*patterns, **options):
    return [str(candidate) for candidate in expand_patterns(patterns, **options)]


def test_an_architecture_stands_for_its_default_weights():
    assert names("resnet18") == ["resnet18.a1_in1k"]
    assert names("resnet18.tv_in1k") == ["resnet18.tv_in1k"]


def test_a_pattern_takes_the_default_weights_and_one_with_a_dot_all_of_them():
    assert names("resnet18", "resnet18*") == ["resnet18.a1_in1k", "resnet18d.ra2_in1k"]
    every = names("resnet18.*")
    assert {"resnet18.a1_in1k", "resnet18.tv_in1k"} <= set(every)
    assert all(name.startswith("resnet18.") for name in every)


def test_models_of_this_family_are_in_it():
    assert names("tome_micro_*", "hiera_micro_digits") == [
        "tome_micro_shapes.plm_shapes",
        "hiera_micro_digits.sklearn_digits",
    ]


def test_random_weights_for_one_pattern_or_for_all():
    assert names("random:test_vit", "tome_micro_*") == ["random:test_vit", "tome_micro_shapes.plm_shapes"]
    assert names("test_vit?", "resnet18", pretrained=False) == [
        "random:test_vit2",
        "random:test_vit3",
        "random:test_vit4",
        "random:resnet18",
    ]


def test_models_without_weights_are_left_out_of_a_pattern_and_said(caplog):
    with caplog.at_level(logging.WARNING, "parc"):
        matched = names("test_vit*")
    assert matched == ["test_vit.r160_in1k", "test_vit2.r160_in1k", "test_vit3.r160_in1k"]
    assert "2 of the 5 models that match 'test_vit*' have no weights and are left out" in caplog.text
    with pytest.raises(UnknownName, match=r"none of the 1 models that match 'test_maxvi\*' has weights; random:test_"):
        names("test_maxvi*")


def test_other_sources_go_through():
    sources = ["hf-hub:org/name@v1", "org/name", "local-dir:/some/where", "transformers:org/name", "transformers:/a"]
    assert names(*sources) == sources


def test_a_model_in_several_spellings_is_ranked_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "test_vit").mkdir()
    assert names("run", "./run", "local-dir:run", str(tmp_path / "run"), "transformers:run", "transformers:./run") == [
        "run",
        "transformers:run",
    ]
    assert names("hf-hub:org/name", "org/name", "HF_hub:org/name@", "org/name@v1") == ["hf-hub:org/name", "org/name@v1"]
    torchvision = ["torchvision:resnet18", "torchvision:resnet18.IMAGENET1K_V1", "torchvision:resnet18.DEFAULT"]
    assert names(*torchvision, "random:torchvision:resnet18") == ["torchvision:resnet18", "random:torchvision:resnet18"]
    assert names("test_vit", "test_vit.r160_in1k", "random:test_vit.r160_in1k", "random:test_vit", "./test_vit") == [
        "test_vit.r160_in1k",
        "random:test_vit.r160_in1k",
        "./test_vit",  # a name of timm comes before a folder
    ]


def test_torchvision_has_patterns_too():
    assert names("torchvision:vit_b_*", "torchvision:vit_l_16.IMAGENET1K_V1", "random:torchvision:regnet_x_?gf") == [
        "torchvision:vit_b_16",
        "torchvision:vit_b_32",
        "torchvision:vit_l_16.IMAGENET1K_V1",
        "random:torchvision:regnet_x_8gf",
    ]
    assert "torchvision:resnet18" in names("torchvision:*18", pretrained=True)
    every = names("torchvision:*")
    assert "torchvision:squeezenet1_0" in every
    assert not [name for name in every if "quantized" in name or "rcnn" in name or "r3d" in name]  # image classifiers


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("resnet18x", "no model 'resnet18x'; did you mean 'resnet18"),
        ("resnett18*", r"no model matching 'resnett18\*'; did you mean 'resnet"),
        ("resnet18.a1_in1", r"no model 'resnet18\.a1_in1'; did you mean 'resnet18\.a1_in1k'"),
        (
            "resnet18,test_vit",
            r"no model 'resnet18,test_vit'.*; several models are a list, as in \['resnet18', 'test_vi",
        ),
        ("resnet18.zz*", r"no model matching 'resnet18\.zz\*'"),
        ("random:pe_nothing", "no model 'pe_nothing'"),
        ("torchvision:resnet5", "no model of torchvision named 'resnet5'; did you mean 'resnet50'"),
        ("torchvision:resnet50.V9", "no weights of torchvision:resnet50 named 'V9'"),
        ("torchvision:resnett*", r"no model of torchvision matching 'resnett\*'; did you mean 'resnet"),
    ],
)
def test_a_pattern_that_matches_nothing(pattern, said):
    with pytest.raises(UnknownName, match=said):
        names(pattern)


@pytest.mark.parametrize("patterns", [[], [""], ["random: "]])
def test_no_pattern(patterns):
    with pytest.raises(InputError, match="models "):
        expand_patterns(patterns)


def test_random_weights_are_the_same_each_time_and_leave_the_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second = (make_model(Candidate("test_resnet", pretrained=False)).state_dict() for _ in range(2))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    torch.testing.assert_close(torch.rand(3), expected)


def test_a_model_that_cannot_be_had_says_why():
    with pytest.raises(NotSupported, match="no weights of it; random:test_maxvit makes it random"):
        make_model(Candidate("test_maxvit"))
    with pytest.raises(WeightsError, match="cannot get test_vit"):
        make_model(Candidate("test_vit.r160_in1k"))


def test_probabilities_count_for_a_trained_head_only():
    trained = Candidate("hiera_micro_digits")
    model = make_model(trained)
    assert not model.training
    assert has_trained_head(model, trained)
    assert not has_trained_head(model, Candidate("hiera_micro_digits", pretrained=False))
    model.reset_classifier(0)
    assert not has_trained_head(model, trained)


def test_other_libraries_have_trained_heads_when_they_are_pretrained(vit_folder):
    for name in ("torchvision:shufflenet_v2_x0_5", f"transformers:{vit_folder}"):
        random = Candidate(name, pretrained=False)
        assert not has_trained_head(make_model(random), random)
    trained = Candidate(f"transformers:{vit_folder}")
    assert has_trained_head(make_model(trained), trained)


def test_size_without_weights():
    assert size_of(Candidate("resnet18.a1_in1k")) == 11_689_512
    assert size_of(Candidate("torchvision:resnet18")) == 11_689_512
    assert size_of(Candidate("local-dir:/nowhere")) == size_of(Candidate("transformers:/nowhere")) == 0


def test_random_weights_are_the_same_in_several_threads():
    def make(_):
        return fingerprint(make_model(Candidate(name="test_resnet", pretrained=False)))

    with ThreadPoolExecutor(4) as threads:
        assert len(set(threads.map(make, range(8)))) == 1
