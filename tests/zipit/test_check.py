"""The proof that graphs are right, for many architectures, and that it can fail."""

import pytest
import timm
import torch
from timm.models.mlp_mixer import MlpMixer
from timm.models.vgg import VGG
from torch import nn

import plm_core
import zipit
from zipit.tracing import rules

# Each architecture as it is, or thinner or shallower where that is all that is left out, and the side of its images.
MODELS = {
    "resnet18": ({}, 64),
    "resnet50": ({}, 32),
    "resnext50_32x4d": ({"layers": (1, 1, 1, 1)}, 32),
    "densenet121": ({}, 64),
    "mobilenetv3_small_100": ({}, 64),
    "efficientnet_b0": ({}, 64),
    "regnety_002": ({}, 64),
    "convnext_tiny": ({"depths": (1, 1, 1, 1), "dims": (24, 48, 96, 192)}, 64),
    "vit_tiny_patch16_224": ({"depth": 3, "img_size": 64}, 64),
    "deit_tiny_patch16_224": ({"depth": 3, "img_size": 64}, 64),
    "swin_tiny_patch4_window7_224": ({"embed_dim": 24, "depths": (2, 2, 2, 2)}, 224),
    "hiera_micro_digits": ({}, 32),
}
SLOW = {
    "convnext_tiny": 64,
    "eva02_tiny_patch14_224": 224,
    "inception_v3": 299,
    "levit_128s": 224,
    "maxvit_pico_rw_256": 256,
    "mixer_s32_224": 224,
    "nfnet_f0": 64,
    "regnetx_002": 64,
    "repvgg_a0": 64,
    "resnext50_32x4d": 64,
    "swin_tiny_patch4_window7_224": 224,
    "vgg11_bn": 224,
    "vit_small_patch14_reg4_dinov2": 518,
    "xcit_nano_12_p16_224": 224,
}


@pytest.mark.parametrize("name", [*MODELS, "vgg11_bn", "mixer", "pe_micro_clip"])
def test_permutations_leave_an_architecture_as_it_is(name):
    torch.manual_seed(0)
    if name == "vgg11_bn":
        widths = (16, "M", 32, "M", 48, 48, "M", 64, 64, "M", 64, 64, "M")
        model, size = VGG(widths, norm_layer=nn.BatchNorm2d, mlp_ratio=0.02), 64
    elif name == "mixer":
        model, size = MlpMixer(img_size=64, patch_size=16, num_blocks=2, embed_dim=48), 64
    elif name == "pe_micro_clip":
        model, size = plm_core.create_model(name).visual, 48
    else:
        options, size = MODELS[name]
        model = plm_core.create_model(name, **options)
    result = zipit.check(model, torch.randn(2, 3, size, size))
    assert result.passed, result
    assert result.moved > 0.9
    assert not result.unknown


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), SLOW.items())
def test_permutations_leave_more_architectures_as_they_are(name, size):
    torch.manual_seed(0)
    result = zipit.check(plm_core.create_model(name), torch.randn(2, 3, size, size))
    assert result.passed, result


def test_positions_that_are_cut_out_of_a_table_keep_their_places():
    """timm does so if the size may change; their labels doubled with each sum, so that the trace had no end."""
    model = timm.create_model("test_vit", img_size=48)
    result = zipit.check(model, torch.randn(2, 3, 48, 48))
    assert result.passed, result
    assert result.moved > 0.9


def test_the_table_of_a_graph_has_no_rows_of_blocks_alone():
    model = timm.create_model("vit_tiny_patch16_224", depth=1, img_size=32)
    rows = [line.split() for line in str(zipit.graph(model, torch.randn(2, 3, 32, 32))).splitlines()[1:-1]]
    assert [row[:2] for row in rows] == [["192", "cls_token"], ["192", "3"], ["192", "3"], ["768", "blocks.0.mlp.fc1"]]


@pytest.mark.parametrize("broken", ["add", "linear", "layer_norm", "cat"])
def test_a_wrong_rule_is_found(monkeypatch, broken):
    """Without the rule of an operation's own, its inputs would be free to move apart."""
    model = timm.create_model("vit_tiny_patch16_224", depth=1, img_size=32)
    image = torch.randn(2, 3, 32, 32)
    assert zipit.check(model, image).passed

    def forgets(call):
        return call.tensors[0] if broken in ("add", "layer_norm") else rules.nothing(call)

    monkeypatch.setitem(rules.RULES, broken, forgets)
    assert not zipit.check(model, image).passed


class Shuffled(nn.Module):
    """Channels that are cut, shuffled in groups, repeated, padded, gated and put into pixels."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 16, 3, padding=1, groups=4)
        self.norm = nn.GroupNorm(4, 16)
        self.deep = nn.Conv2d(16, 32, 3, padding=1, groups=16)
        self.up = nn.ConvTranspose2d(32, 16, 2, 2)
        self.gate = nn.Linear(16, 16)
        self.mix = nn.Conv2d(8 + 16, 16, 1)
        self.pixels = nn.PixelShuffle(2)
        self.last = nn.Conv2d(4, 6, 3)
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        x = self.stem(x).relu()
        y = self.norm(self.grouped(x))
        y = self.up(self.deep(y).relu())
        y = y * self.gate(y.mean((2, 3))).sigmoid()[:, :, None, None]
        x = nn.functional.interpolate(x, scale_factor=2.0)
        a, b = x.chunk(2, 1)
        x = self.mix(torch.cat([b, a, y], 1))
        x = nn.functional.pad(self.last(self.pixels(x)), (0, 0, 0, 0, 0, 2))
        return self.head(x[:, :6].amax((2, 3)))


def test_permutations_leave_shuffled_channels_as_they_are():
    result = zipit.check(Shuffled(), torch.randn(2, 3, 8, 8))
    assert result.passed, result
    assert result.moved > 0.5
    assert not result.unknown


class Forms(nn.Module):
    """Operations in forms that are easy to take for others."""

    def __init__(self):
        super().__init__()
        self.first, self.slope = nn.Conv2d(3, 8, 3, padding=1), nn.PReLU(8)
        self.norm, self.second = nn.InstanceNorm2d(8, affine=True), nn.Conv2d(8, 8, 1)
        self.table = nn.Parameter(torch.randn(5, 8))
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.slope(self.first(x))
        x = torch.max(x, self.second(self.norm(x)))
        x = nn.functional.normalize(x, dim=1)
        x = torch.einsum("bchw,kc->bkhw", x, self.table).repeat(1, 1, 2, 1).flip(2).roll(1, 3)
        rows = self.table.index_select(-2, torch.tensor([0, 3]))
        return self.head(rows + x.mean((1, 2, 3))[:, None, None])


def test_permutations_leave_unusual_forms_as_they_are():
    result = zipit.check(Forms(), torch.randn(2, 3, 8, 8))
    assert result.passed, result
    assert result.moved > 0.5
    assert not result.unknown


def test_a_rule_that_fails_leaves_its_inputs_in_their_places(monkeypatch):
    def fails(call):
        raise ValueError("a form of its own")

    monkeypatch.setitem(rules.RULES, "prelu", fails)
    result = zipit.check(Forms(), torch.randn(2, 3, 8, 8))
    assert result.passed
    assert result.unknown == {"prelu": "slope"}


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.last(torch.sort(self.first(x), dim=-1).values)


def test_what_no_rule_follows_keeps_its_place_and_is_named():
    result = zipit.check(Odd(), torch.randn(5, 4))
    assert result.passed
    assert result.groups == 0
    assert result.unknown == {"sort": ""}


def test_a_model_is_left_as_it_is():
    model = timm.create_model("resnet18").train()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    zipit.check(model, torch.randn(2, 3, 32, 32))
    assert model.training
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())


def test_what_cannot_be_traced_is_refused():
    class Looks(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(plm_core.NotSupported, match="model Looks cannot be traced: "):
        zipit.graph(Looks(), torch.randn(2, 3))


@pytest.mark.parametrize("find", [zipit.graph, zipit.cuts, zipit.check])
def test_lists_of_models_or_of_batches_are_refused(find):
    model, x = nn.Linear(3, 2), torch.randn(2, 3)
    with pytest.raises(plm_core.InputError, match="model is a list; a single module is expected"):
        find([model, model], x)
    with pytest.raises(plm_core.InputError, match="example is a list; an input, or a tuple of all inputs, is expected"):
        find(model, [x])
