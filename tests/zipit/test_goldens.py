"""The recorded outputs of the original: matchings, merged networks and their logits."""

import pytest
import torch

import zipit
from zipit.graphs import graph
from zipit.matching import matrices
from zipit.statistics import covariances

MATCHES = ["match_2x16", "match_2x24_signed", "match_2x64", "match_3x12"]
NETWORKS = ["resnet_two_models", "vgg_two_models", "resnet_three_models"]


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", MATCHES)
def test_zipit_makes_the_groups_of_the_original(golden, name, legacy):
    case = golden(name)
    config, covariance = case.config, case.inputs["covariance"]
    for setting in config["zipit"]:
        options = {"a": setting["a"], "b": setting["b"], "legacy": legacy}
        merge, unmerge = zipit.match(covariance, config["r"], config["models"], **options)
        assert torch.equal(unmerge, case.outputs[f"zipit.{setting['index']}.unmerge"]), setting
        torch.testing.assert_close(merge, case.outputs[f"zipit.{setting['index']}.merge"], rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", MATCHES)
def test_the_other_methods_make_the_groups_of_the_original(golden, name):
    case = golden(name)
    config, covariance = case.config, case.inputs["covariance"]
    for method in config["other"]:
        merge, unmerge = zipit.match(covariance, config["r"], config["models"], method)
        expected = case.outputs[f"{method}.unmerge"]
        if method == "optimal":  # the order of its groups is open
            assert torch.equal(unmerge @ unmerge.T, expected @ expected.T)
        else:
            assert torch.equal(unmerge, expected), method
            torch.testing.assert_close(merge, case.outputs[f"{method}.merge"], rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", NETWORKS)
def test_covariances_are_those_of_the_original_at_every_node(golden, networks, name):
    case = golden(name)
    models, batches = networks(case)
    plan = graph(models[0], batches[0])
    sites = {n: site for n, site in enumerate(plan.sites()) if site is not None}
    values = list(covariances(models, batches, sites).values())
    for node in case.config["nodes"]:
        expected = case.outputs[f"covariance.{node}"].double()
        near = [v for v in values if v.shape == expected.shape and torch.allclose(v, expected, rtol=1e-4, atol=1e-5)]
        assert len(near) == 1, node
    assert len(values) == len(case.config["nodes"])


def check_logits(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize("reset_norm", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_merged_networks_are_those_of_the_original(golden, networks, name, reset_norm):
    case = golden(name)
    models, batches = networks(case)
    for number, run in enumerate(case.config["runs"]):
        until = case.config["nodes"].get(str(run["stop_node"])) if run["stop_node"] else None
        merged = zipit.merge(models, batches, run["fn"], until, **run["params"], reset_norm=reset_norm)
        key = f"run{number}.logits" + "_after_bn_reset" * reset_norm
        with torch.no_grad():
            logits = merged(case.inputs["eval_images"])
        if until is None:
            check_logits(logits, case.outputs[key])
            # the recorded state has the running statistics of after the reset, whatever its note says
            wanted = merged.state_dict() if reset_norm else dict(merged.named_parameters())
            for tensor, value in wanted.items():
                if "num_batches" not in tensor:
                    expected = case.outputs[f"run{number}.state.{tensor}"]
                    rtol = 1e-4 if "running" in tensor else 1e-5
                    torch.testing.assert_close(value.detach(), expected, rtol=rtol, atol=1e-6, msg=tensor)
        else:
            for head, output in enumerate(logits):
                check_logits(output, case.outputs[f"{key}.head{head}"])
            prefix = f"run{number}.head"
            weights = [tensor for tensor in case.outputs if tensor.startswith(prefix)]
            assert weights
            for tensor in weights:
                head, _, parameter = tensor.removeprefix(prefix).partition(".")
                value = merged.heads[int(head)].get_parameter(parameter)
                torch.testing.assert_close(value.detach(), case.outputs[tensor], rtol=1e-5, atol=1e-7)


def test_a_merge_averages_the_members_of_each_group():
    groups = torch.tensor([0, 1, 1, 2, 0, 1]).numpy()
    merge, unmerge = matrices(groups, 3, eps=0.0)
    features = torch.arange(6.0)
    torch.testing.assert_close(merge @ features, torch.tensor([2.0, 8 / 3, 3]))
    torch.testing.assert_close(unmerge @ merge @ features, torch.tensor([2, 8 / 3, 8 / 3, 3, 2, 8 / 3]))
