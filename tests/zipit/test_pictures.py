"""The merge graph as a picture."""

import timm
import torch

import zipit
from zipit.pictures import paint_graph


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_every_group_has_its_box_with_size_and_site(resnets, images):
    graph = zipit.graph(resnets(1)[0], images[:2])
    figure = paint_graph(graph)
    shown = texts(figure)
    sites = graph.sites()
    for number in graph.merged:
        assert f"{graph.groups[number].size} features" in shown
        assert f"input of {sites[number].module}" in shown
    assert shown.count("keep their places") == 2  # the channels of the image, and the classes
    assert len(figure.axes[0].patches) == len(graph.merged) + 2


def test_the_modules_stand_in_the_order_of_the_program(resnets, images):
    figure = paint_graph(zipit.graph(resnets(1)[0], images[:2]))
    names = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert names[:3] == ["conv1", "layer1.0.conv1", "layer1.0.conv2"]
    assert names[-1] == "linear"
    assert not any("bn" in name for name in names)


def test_makers_are_full_dots_and_users_are_rings(resnets, images):
    graph = zipit.graph(resnets(1)[0], images[:2])
    axes = paint_graph(graph).axes[0]
    names = [label.get_text() for label in axes.get_xticklabels()]
    row = texts(axes.figure).index("input of layer1.0.conv2") // 2
    marks = {names[int(x.get_xdata()[0])]: x.get_mfc() for x in axes.lines if x.get_ydata()[0] == row}
    assert marks.keys() == {"layer1.0.conv1", "layer1.0.conv2"}
    assert marks["layer1.0.conv2"] == "white" != marks["layer1.0.conv1"]


def test_fixed_groups_are_grey(resnets, images):
    axes = paint_graph(zipit.graph(resnets(1)[0], images[:2])).axes[0]
    assert {text.get_color() for text in axes.texts if text.get_text() == "keep their places"} == {"grey"}


def test_blocks_are_counted():
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, embed_dim=24, num_heads=2).eval()
    assert any("in 2 blocks" in text for text in texts(paint_graph(zipit.graph(model, torch.rand(2, 3, 32, 32)))))
