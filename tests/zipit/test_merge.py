"""Merging: what is seen, what comes out, and what is refused."""

import copy

import pytest
import timm
import torch
from torch import nn

import zipit
from plm_core import InputError, NotSupported, PlmError
from zipit.graphs import graph
from zipit.statistics import Covariance, covariances, observe

SIZE = (2, 3, 16, 16)


def vits(count=2, **options):
    models = []
    for seed in range(count):
        torch.manual_seed(seed)
        model = timm.create_model(
            "vit_tiny_patch16_224",
            depth=2,
            embed_dim=24,
            num_heads=3,
            img_size=16,
            patch_size=4,
            num_classes=5,
            **options,
        )
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3)
        models.append(model.eval())
    return models


# --- statistics -----------------------------------------------------------------------------------------------------


def test_covariances_are_those_of_all_samples_at_once(resnets, images):
    models = resnets()
    plan = graph(models[0], images[:2])
    sites = {n: site for n, site in enumerate(plan.sites()) if site is not None}
    seen = {n: [] for n in sites}
    for number, site in sites.items():
        for model in models:

            def keep(module, args, number=number):
                seen[number].append(args[0].double().movedim(1, 0).flatten(1))

            hook = model.get_submodule(site.module).register_forward_pre_hook(keep)
            with torch.no_grad():
                model(images)
            hook.remove()
    found = covariances(models, [images[:10], images[10:11], (images[11:], "labels")], sites)
    for number, parts in seen.items():
        torch.testing.assert_close(found[number], torch.cat(parts).cov(correction=0), rtol=1e-5, atol=1e-7)


def test_a_large_mean_costs_no_digits():
    x = torch.randn(3, 4000) + 1e4
    total = Covariance()
    for part in x.split(500, 1):
        total.add(part)
    torch.testing.assert_close(total.value(), x.double().cov(correction=0), rtol=1e-4, atol=1e-4)
    assert (total.value().diag() > 0).all()


def test_a_batch_is_divided_so_that_features_take_little_memory(resnets, images, monkeypatch):
    from zipit import statistics

    models = resnets()
    plan = graph(models[0], images[:2])
    sites = {n: site for n, site in enumerate(plan.sites()) if site is not None}
    whole = covariances(models, [images], sites)
    monkeypatch.setattr(statistics, "BYTES", 1)
    done = []
    parts = observe(models, [images], sites, done.append)
    assert done == [1] * len(images)
    for number, value in whole.items():
        torch.testing.assert_close(parts[number].value(), value, rtol=1e-5, atol=1e-7)


# --- whole merges ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["zipit", "permute", "identity", "optimal", "kmeans"])
def test_every_method_makes_a_model_of_the_same_class(resnets, images, method):
    models = resnets()
    before = [copy.deepcopy(model.state_dict()) for model in models]
    merged = zipit.merge(models, [images], method)
    assert type(merged) is type(models[0])
    assert not any(module.training for module in merged.modules())
    assert merged(images).shape == (24, 10)
    for model, state in zip(models, before, strict=True):
        assert all(torch.equal(x, state[name]) for name, x in model.state_dict().items()), "models are left as they are"


@pytest.mark.parametrize("method", ["zipit", "permute"])
def test_a_network_and_a_shuffled_copy_are_one_network(resnets, images, method):
    """The copy has its features in another order, and the merge finds their partners."""
    import numpy as np

    from zipit.checking import _permute, permuted

    [model] = resnets(1)
    plan = graph(model, images[:2])
    other = copy.deepcopy(model)
    other.load_state_dict(_permute(model, plan, permuted(plan.groups, np.random.default_rng(0))), strict=False)
    merged = zipit.merge([model, other], [images], method, reset_norm=False)
    torch.testing.assert_close(merged(images), model(images), atol=1e-3, rtol=1e-3)
    averaged = zipit.average([model, other], reset_norm=False)
    assert (averaged(images) - model(images)).abs().max() > 0.01


def test_average_is_the_mean_of_the_weights(resnets, images):
    models = resnets(3)
    merged = zipit.average(models, reset_norm=False)
    for name, x in merged.named_parameters():
        torch.testing.assert_close(x, torch.stack([m.get_parameter(name) for m in models]).mean(0))


def test_statistics_of_norms_are_those_of_the_data(resnets, images):
    merged = zipit.merge(resnets(), [images[:12], images[12:]])
    with torch.no_grad():
        x = merged.conv1(images)
    torch.testing.assert_close(merged.bn1.running_mean, x.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)
    assert merged.bn1.momentum == 0.1
    kept = zipit.merge(resnets(), [images], reset_norm=False)
    assert not torch.allclose(kept.bn1.running_mean, merged.bn1.running_mean, atol=1e-3)


def test_models_in_train_mode_are_seen_in_eval_mode(resnets, images):
    models = resnets()
    expected = zipit.merge(models, [images])
    for model in models:
        model.train()
    merged = zipit.merge(models, [images])
    assert all(model.training for model in models)
    assert torch.equal(merged(images), expected(images))


def test_a_generator_of_batches_is_enough(resnets, images):
    merged = zipit.merge(resnets(), (part for part in images.split(8)))
    assert torch.equal(merged(images), zipit.merge(resnets(), images.split(8))(images))


def test_a_transformer_can_be_merged_and_its_heads_stay_together(images):
    models = vits()
    merged = zipit.merge(models, [images], method="permute")
    assert merged(images).isfinite().all()
    same = zipit.merge([models[0], models[0]], [images], method="permute")
    torch.testing.assert_close(same(images), models[0](images), atol=1e-3, rtol=1e-3)


def test_a_merged_model_can_be_merged_again(resnets, images):
    first, second, third = resnets(3)
    merged = zipit.merge([zipit.merge([first, second], [images]), third], [images])
    assert merged(images).isfinite().all()


# --- partial merges -------------------------------------------------------------------------------------------------


def test_heads_are_the_rest_of_each_model(resnets, images):
    """With a trunk of the same weights, the outputs are those of the models."""
    models = resnets()
    for name in ("conv1", "bn1", "layer1"):
        models[1].get_submodule(name).load_state_dict(models[0].get_submodule(name).state_dict())
    for until in ("layer1.0.conv1", "layer2.0.conv1", ["layer2.0.conv1", "layer2.0.shortcut.0"], "layer2"):
        merged = zipit.merge(models, [images], "permute", until, reset_norm=False)
        for output, model in zip(merged(images), models, strict=True):
            torch.testing.assert_close(output, model(images), atol=1e-3, rtol=1e-3)


def test_a_cut_amid_a_stream_gives_each_head_its_features_back(images):
    models = vits()
    twins = [models[0], copy.deepcopy(models[0])]
    with torch.no_grad():
        twins[1].head.weight.neg_()
    cut = next(name for name in zipit.cuts(models[0], images[:2]) if name.startswith("blocks.1"))
    merged = zipit.merge(twins, [images], "permute", cut)
    for output, model in zip(merged(images), twins, strict=True):
        torch.testing.assert_close(output, model(images), atol=1e-3, rtol=1e-3)
    assert zipit.merge(models, [images], until=cut)(images)[1].isfinite().all()


def test_a_partial_merge_has_clean_parts(resnets, images):
    merged = zipit.merge(resnets(), [images], until="layer3.0.conv1")
    assert {name.split(".")[0] for name, _ in merged.trunk.named_parameters()} == {"conv1", "bn1", "layer1", "layer2"}
    assert {name.split(".")[0] for name, _ in merged.heads[0].named_parameters()} == {"layer3", "linear"}
    assert not any(module.training for module in merged.modules())
    sum(output.sum() for output in merged.train()(images)).backward()
    assert all(parameter.grad is not None for parameter in merged.parameters())
    program = torch.export.export(merged.eval(), (images[:2],))
    torch.testing.assert_close(program.module()(images[:2])[1], merged(images[:2])[1])
    assert torch.equal(copy.deepcopy(merged)(images)[0], merged(images)[0])


def test_heads_may_have_different_classes(resnets, images):
    models = [*resnets(1, num_classes=4), *resnets(2, num_classes=7)[1:]]
    with pytest.raises(
        InputError, match=r"'linear.weight' is \[4, 16\] in models\[0\] and \[7, 16\] in models\[1\]; with "
    ):
        zipit.merge(models, [images])
    merged = zipit.merge(models, [images], until="linear")
    assert [output.shape[1] for output in merged(images)] == [4, 7]


def test_three_models_have_three_heads(resnets, images):
    merged = zipit.merge(resnets(3), [images], until="layer3.0.conv1")
    assert len(merged(images)) == 3


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("until", "message"),
    [
        ("layer1.0.conv2", "more than the input of this module goes on, as in a residual branch; cut before 'layer"),
        ("layer9", "the model runs no module 'layer9'; it can be cut before 'bn1'"),
        (["layer2.0.conv1", "layer3.0.conv1"], "modules with one and the same input are needed"),
        ([], "the name of a module is needed, such as "),
        (5, "until is 5; the name of a module, or a list of names, is expected"),
        ([5], r"until is \[5\]; the name of a module, or a list"),
        ("conv1", "'conv1'; this module takes the input of the model itself; cut before 'bn1'"),
    ],
)
def test_a_place_where_the_model_cannot_be_cut_is_refused(resnets, images, until, message):
    with pytest.raises(InputError, match=message):
        zipit.merge(resnets(), [images], until=until)


def test_models_that_differ_are_refused_by_their_first_difference(resnets, images):
    wide = resnets(1, widths=(4, 8, 20))
    with pytest.raises(
        InputError, match=r"'layer3.0.conv1.weight' is \[16, 8, 3, 3\] in models\[0\] and \[20, 8, 3, 3\]"
    ):
        zipit.merge([*resnets(1), *wide], [images])
    deep = resnets(1)[0]
    deep.more = nn.Linear(2, 2)
    with pytest.raises(InputError, match=r"'more.weight' is in models\[1\] and not in models\[0\]"):
        zipit.average([*resnets(1), deep])


def test_models_on_different_devices_or_in_different_dtypes_are_refused(resnets, images):
    first, second = resnets()
    with pytest.raises(InputError, match=r"in different dtypes: cpu torch\.float32; cpu torch\.float64"):
        zipit.merge([first, second.double()], [images])
    with pytest.raises(InputError, match="different devices"):
        zipit.merge([first, copy.deepcopy(first).to("meta")], [images])


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "batches has no data"),
        ([torch.zeros(0, 3, 16, 16)], r"an element that is \[0, 3, 16, 16\]"),
        (["image.png"], "an element that is a str"),
        (None, "batches is None; several batches are expected"),
        (torch.zeros(4, 3, 16, 16), r"batches is a tensor \[4, 3, 16, 16\]; several batches are expected"),
    ],
)
def test_no_data_is_refused(resnets, batches, message):
    with pytest.raises(InputError, match=message):
        zipit.merge(resnets(), batches)


@pytest.mark.parametrize("models", [[], [nn.Linear(2, 2)], nn.Linear(2, 2), ["resnet18", "resnet18"]])
def test_what_is_no_list_of_models_is_refused(models):
    with pytest.raises(InputError, match="a list of two modules or more"):
        zipit.merge(models, [torch.zeros(2, 2)])


def test_a_single_image_gives_one_sample_of_pooled_features():
    models = [nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)) for _ in range(2)]
    with pytest.raises(InputError, match="a single sample for some features; several images are needed"):
        zipit.merge(models, [torch.rand(1, 3)])


def test_values_that_are_not_finite_name_their_place(resnets, images):
    models = resnets()
    nn.init.constant_(models[1].layer2[0].conv1.weight, 3e38)
    with pytest.raises(PlmError, match=r"of module 'layer2\.0\.conv2' has values that are not finite"):
        zipit.merge(models, [images])


@pytest.mark.parametrize("method", ["zipit", "identity", "weights"])
def test_values_that_are_not_finite_are_refused_by_every_method(resnets, images, method):
    models = resnets()
    images[1, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match="batches has values that are not finite"):
        zipit.merge(models, [images], method)
    models[1].layer2[0].conv1.weight.detach()[0, 0] = float("nan")
    with pytest.raises(InputError, match=r"'layer2\.0\.conv1\.weight' of models\[1\] has values that are not finite"):
        zipit.merge(models, [images], method)


def test_models_without_values_are_refused(resnets, images):
    with torch.device("meta"):
        models = [nn.Linear(3, 4) for _ in range(2)]
    with pytest.raises(InputError, match=r"'weight' of models\[0\] is on the device meta"):
        zipit.merge(models, [torch.rand(4, 3)], "weights")
    with pytest.raises(InputError, match=r"models\[0\] has no parameters"):
        zipit.merge([nn.ReLU(), nn.ReLU()], [images])


def test_a_batch_that_norms_cannot_be_reset_on_is_refused():
    models = [nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)) for _ in range(2)]
    batches = [torch.rand(4, 3), torch.rand(1, 3)]
    with pytest.raises(InputError, match="batches has one of a single input, which batch norms cannot be reset on"):
        zipit.merge(models, batches)
    zipit.merge(models, batches, reset_norm=False)


def test_dead_features_are_merged_alike_every_time(resnets, images):
    models = resnets()
    with torch.no_grad():
        for model in models:
            model.layer1[0].bn1.bias[:2] = -100
    one, other = (zipit.merge(models, [images]) for _ in range(2))
    assert torch.equal(one(images), other(images))


def test_a_graph_can_be_printed(resnets, images):
    lines = str(zipit.graph(resnets(1)[0], images[:2])).splitlines()
    assert lines[1].split() == ["4", "conv1", "input", "of", "layer2.0.conv1"] or "conv1" in lines[1]
    assert len(lines) == 8
    assert lines[-1] == "13 features of parameters keep their places"


def test_a_model_that_fx_cannot_trace_is_merged_whole_and_not_cut():
    class Sized(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x):
            if x.shape[1] > 5:
                x = x[:, :6]
            return self.last(self.first(x).relu())

    models = [Sized().eval() for _ in range(2)]
    assert zipit.merge(models, [torch.rand(9, 6)])(torch.rand(2, 6)).shape == (2, 3)
    with pytest.raises(NotSupported, match=r"model Sized cannot be cut before 'last': .*; merge all of it"):
        zipit.merge(models, [torch.rand(9, 6)], until="last")


def test_weights_alone_find_a_shuffled_copy(resnets, images):
    import numpy as np

    from zipit.checking import _permute, permuted

    for [model] in (resnets(1), vits(1)):
        plan = graph(model, images[:2])
        other = copy.deepcopy(model)
        other.load_state_dict(_permute(model, plan, permuted(plan.groups, np.random.default_rng(1))), strict=False)
        merged = zipit.merge([model, other], [images[:2]], "weights", reset_norm=False)
        torch.testing.assert_close(merged(images), model(images), atol=1e-3, rtol=1e-3)


def test_an_average_without_data_keeps_the_averaged_statistics(resnets):
    models = resnets()
    merged = zipit.average(models)
    expected = torch.stack([model.bn1.running_var for model in models]).mean(0)
    torch.testing.assert_close(merged.bn1.running_var, expected)


def test_least_squares_predict_features_best_from_merged_ones():
    import numpy as np

    from zipit.zipping import fitted, maps_of

    rng = np.random.default_rng(0)
    x = np.maximum(rng.standard_normal((8, 12)) @ rng.standard_normal((12, 500)) + 0.5, 0)
    groups = np.array([0, 1, 1, 2, 3, 0, 2, 3])
    maps = maps_of({0: groups}, 2, eps=0.0)
    found = torch.cat([own[0].unmerge for own in fitted(maps, {0: torch.from_numpy(x @ x.T / 500)})]).numpy()
    z = np.stack([x[groups == group].mean(0) for group in range(4)])
    best = np.linalg.lstsq(z.T, x.T, rcond=None)[0].T
    np.testing.assert_allclose(found, best, atol=5e-3)
    assert ((x - found @ z) ** 2).sum() < ((x - z[groups]) ** 2).sum()


def test_least_squares_leave_a_network_and_its_copy_as_they_are(resnets, images):
    [model] = resnets(1)
    merged = zipit.merge([model, model], [images], "permute", reset_norm=False, least_squares=True)
    torch.testing.assert_close(merged(images), model(images), atol=0.02, rtol=0.02)


def test_least_squares_leave_more_of_what_the_micro_models_know():
    import plm_core
    from zipit.micro.shapes import NAMES, scenes
    from zipit.tour import scores

    models = [plm_core.create_model(name, pretrained=True).eval() for name in NAMES]
    batches, (images, labels) = scenes("train", 256)[0].split(64), scenes("heldout", 200)
    joint = {}
    for fit in (False, True):
        merged = zipit.merge(models, batches, until="layer3.0.conv1", least_squares=fit)
        with torch.no_grad():
            joint[fit] = scores(merged(images), labels)["joint"]
    assert joint[True] > joint[False] + 8


def plain_networks():
    """Networks without norms, in which averages vary less with each layer."""
    models = []
    for seed in range(2):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 16, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5),
        )  # fmt: skip
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3)
        models.append(model.eval())
    return models


def moments_of(model, images):
    """Return the mean and the deviation of the outputs of each convolution, by its number."""
    seen = {}
    for number, layer in enumerate(model):
        images = layer(images)
        if isinstance(layer, nn.Conv2d):
            seen[number] = images.mean((0, 2, 3)), images.std((0, 2, 3), correction=0)
    return seen


@torch.no_grad()
@pytest.mark.parametrize("until", [None, "7"])
def test_repair_gives_merged_features_the_moments_of_their_members(images, until):
    models = plain_networks()
    plan = graph(models[0], images[:2])
    plain = zipit.merge(models, [images], "permute", until)
    repaired = zipit.merge(models, [images], "permute", until, repair=True)
    parts = [m.trunk if until else m for m in (plain, repaired)]
    before, after = (moments_of(part.children(), images) for part in parts)
    theirs = [moments_of(model, images) for model in models]
    for number, (mean, deviation) in after.items():
        members = torch.stack([seen[number][1] for seen in theirs])
        assert deviation.mean().item() == pytest.approx(members.mean().item(), rel=1e-3)
        assert mean.mean().item() == pytest.approx(
            torch.stack([seen[number][0] for seen in theirs]).mean().item(), rel=1e-3, abs=1e-4
        )
        assert before[number][1].mean() < 0.9 * deviation.mean(), "averages vary less"
    assert len(plan.merged) == 3


def test_repair_leaves_a_network_and_its_copy_as_they_are(images):
    model = plain_networks()[0]
    merged = zipit.merge([model, model], [images], "permute", repair=True)
    torch.testing.assert_close(merged(images), model(images), atol=1e-3, rtol=1e-3)


def test_repair_and_norms_go_together(resnets, images):
    merged = zipit.merge(resnets(), [images], repair=True)
    assert torch.equal(merged(images), zipit.merge(resnets(), [images])(images)), "its layers have norms and no bias"
