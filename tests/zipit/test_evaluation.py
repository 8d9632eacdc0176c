"""Accuracies of several tasks, and the operations of a model."""

import pytest
import timm
import torch
from torch import nn

from plm_core import InputError, NotSupported
from zipit.evaluation import accuracy, class_scores, flops, joined, joint_accuracy, task_accuracy, text_embeddings

TASKS = [[0, 2], [1, 3]]


def test_accuracies_by_hand():
    scores = torch.tensor([[9.0, 0, 1, 2], [0, 1, 2, 3], [1, 5, 2, 0], [0, 1, 3, 2]])
    labels = torch.tensor([0, 1, 2, 3])
    found = accuracy(scores, labels, TASKS)
    assert found.joint == 25, "the first alone"
    assert found.tasks == (100, 50), "of 0 and 2 both; of 1 and 3 the last"
    assert found.average == 75
    assert joint_accuracy(scores, labels) == 25
    assert task_accuracy(scores, labels, [3, 1]) == 50


def test_classes_in_no_task_are_left_out():
    scores = torch.tensor([[1.0, 0, 9], [0, 1, 9], [0, 0, 1]])
    found = accuracy(scores, torch.tensor([0, 1, 2]), [[0], [1]])
    assert found.joint == 100


def test_the_head_that_is_more_certain_wins_and_not_the_louder():
    certain, loud = torch.tensor([[3.0, 0]]), torch.tensor([[100.0, 99]])
    scores = joined([certain, loud], TASKS)
    torch.testing.assert_close(scores[0, [0, 2]], certain[0].softmax(0))
    torch.testing.assert_close(scores[0, [1, 3]], loud[0].softmax(0))
    assert scores.argmax() == 0
    wide = [torch.zeros(1, 4), torch.zeros(1, 4)]
    wide[0][:, [0, 2]] = certain
    wide[1][:, [1, 3]] = loud
    wide[0][:, 1] = 1000  # a class that this head does not know
    torch.testing.assert_close(joined(wide, TASKS), scores)
    whole = wide[1].clone()
    whole[:, [0, 2]] = certain
    torch.testing.assert_close(joined(whole, TASKS), scores)


def test_scores_of_classes_are_cosines():
    x = torch.tensor([[2.0, 0], [3, 3]])
    torch.testing.assert_close(
        class_scores(x, torch.tensor([[5.0, 0], [0, -1]]), 10), 10 * torch.tensor([[1, 0], [0.5**0.5, -(0.5**0.5)]])
    )


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: joint_accuracy(torch.zeros(3, 2), torch.zeros(2)), r"scores are \[3, 2\] and labels \[2\]"),
        (lambda: task_accuracy(torch.zeros(1, 2), torch.zeros(1).long(), [1]), "one image or more"),
        (lambda: accuracy(torch.zeros(1, 2), torch.zeros(1).long(), [[0], [2]]), "from 0 to 1"),
        (lambda: accuracy(torch.zeros(1, 2), torch.zeros(1).long(), [[]]), "one class or more"),
        (lambda: joined(torch.zeros(1, 3), [[0, 1], [1]]), "each class from 0 on"),
        (lambda: joined([torch.zeros(1, 3)], [[0, 1], [2]]), "outputs are of 1 heads"),
        (lambda: joined(torch.zeros(1, 4), [[0, 1], [2]]), r"outputs\[0\] is \[1, 4\]"),
        (lambda: text_embeddings("hiera_micro_digits", ["a"]), "'hiera_micro_digits' has no encode_text and tokenizer"),
        (lambda: class_scores(torch.zeros(1, 4), torch.zeros(2, 3)), r"features are \[1, 4\]"),
    ],
)
def test_what_does_not_fit_is_refused(call, says):
    with pytest.raises((InputError, NotSupported), match=says):
        call()


def test_operations_by_hand():
    convolution = nn.Conv2d(3, 8, 3, padding=1, bias=False).train()
    assert flops(convolution, torch.zeros(5, 3, 6, 6)) == 2 * 6 * 6 * 8 * 3 * 9
    assert convolution.training
    vit = timm.models.VisionTransformer(img_size=8, patch_size=4, embed_dim=16, depth=1, num_heads=2, num_classes=3)
    n, d = 5, 16
    attention = n * d * 3 * d + 2 * n * n * d + n * d * d
    expected = 2 * (4 * d * 3 * 16 + attention + 2 * n * d * 4 * d + d * 3)
    assert flops(vit, torch.zeros(2, 3, 8, 8)) == expected, "with the products of queries, keys and values"
