"""Merging of visual tokens against a slow reference, and its way through model, processor and report."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plm_core import InputError, lm
from plm_core.lm.reduction import merge_tokens


def slow(tokens, keep):
    """Merge the tokens of one chunk, [n, D] in float64, with lists of the tokens that are in each place."""
    groups = [[token] for token in tokens.double()]
    while len(groups) > keep:
        r = min(len(groups) // 2, len(groups) - keep)
        means = [sum(group) / len(group) for group in groups]
        pairs = []
        for even in range(0, len(groups), 2):
            alike = {odd: torch.cosine_similarity(means[even], means[odd], 0) for odd in range(1, len(groups), 2)}
            odd = max(alike, key=alike.get)
            pairs.append((alike[odd], even, odd))
        pairs = sorted(pairs, key=lambda pair: -pair[0])[:r]
        for _, even, odd in pairs:
            groups[odd] = groups[odd] + groups[even]
        gone = {even for _, even, _ in pairs}
        groups = [group for place, group in enumerate(groups) if place not in gone]
    return torch.stack([sum(group) / len(group) for group in groups])


@given(st.integers(1, 3), st.integers(1, 20), st.integers(1, 5), st.integers(1, 24), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_tokens_merge_as_in_the_slow_reference(chunks, count, width, keep, seed):
    # in float64, where no two likenesses are so near that their order is a matter of rounding
    tokens = torch.randn(chunks, count, max(width, 2), generator=torch.Generator().manual_seed(seed)).double()
    merged = merge_tokens(tokens, keep)
    assert merged.shape == (chunks, min(keep, count), max(width, 2))
    torch.testing.assert_close(merged, torch.stack([slow(chunk, keep) for chunk in tokens]))


def test_nothing_is_merged_where_all_may_stay():
    tokens = torch.randn(2, 9, 4)
    assert merge_tokens(tokens, 9) is tokens
    assert merge_tokens(tokens, 100) is tokens
    with pytest.raises(InputError, match="keep is 0"):
        merge_tokens(tokens, 0)


def test_one_token_is_the_mean_of_all():
    tokens = torch.randn(2, 11, 4)
    torch.testing.assert_close(merge_tokens(tokens, 1), tokens.mean(1, keepdim=True))


def test_equal_tokens_are_merged_first_and_the_others_keep_their_order():
    tokens = torch.eye(8)[None]
    tokens[0, 6] = tokens[0, 7]
    merged = merge_tokens(tokens, 7)
    assert torch.equal(merged[0], torch.cat([tokens[0, :6], tokens[0, 7:]]))


def test_half_precision_is_summed_in_full():
    tokens = torch.randn(1, 16, 8).bfloat16()
    merged = merge_tokens(tokens, 3)
    assert merged.dtype == torch.bfloat16
    assert torch.equal(merged, merge_tokens(tokens.float(), 3).bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(merge_tokens(tokens.float(), 3), merge_tokens(tokens.float(), 3))
        assert torch.equal(merge_tokens(tokens.float(), 3).bfloat16(), merged)


def test_every_token_gets_a_gradient():
    tokens = torch.randn(2, 9, 4, requires_grad=True)
    merge_tokens(tokens, 4).sum().backward()
    assert tokens.grad.abs().amin() > 0


def test_it_exports_for_any_number_of_chunks():
    class Merge(torch.nn.Module):
        def forward(self, tokens):
            return merge_tokens(tokens, 3)

    tokens = torch.randn(2, 16, 4)
    program = torch.export.export(Merge(), (tokens,), dynamic_shapes=({0: torch.export.Dim("chunks", min=1)},))
    more = torch.randn(5, 16, 4)
    torch.testing.assert_close(program.module()(more), merge_tokens(more, 3))


@pytest.fixture
def wide(tiny_config, processor):
    """An assistant whose chunks of 112 pixels become 16 visual tokens."""
    vision = tiny_config["vision_config"]
    larger = {**vision, "model_args": {**vision["model_args"], "img_size": [112, 112]}}
    return lm.Assistant(
        lm.build({**tiny_config, "vision_config": larger}), processor.with_settings(size=112, tokens=16, max_tiles=2)
    )


def test_model_and_processor_keep_as_many_tokens(wide, picture):
    image = [picture(112, 112)]
    whole = wide.ask("what is it?", image, max_new_tokens=2)
    assert whole.visual_tokens == 16 * whole.chunks
    before = wide.model.image_features(torch.randn(2, 3, 112, 112, generator=torch.Generator().manual_seed(0)))
    wide.keep_tokens(5)
    assert wide.processor.settings.tokens == 5
    assert wide.processor.max_length == 100
    less = wide.ask("what is it?", image, max_new_tokens=2)
    assert (less.chunks, less.visual_tokens) == (whole.chunks, 5 * whole.chunks)
    assert whole.prompt_tokens - less.prompt_tokens == 11 * whole.chunks
    after = wide.model.image_features(torch.randn(2, 3, 112, 112, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(after, merge_tokens(before, 5))
    wide.keep_tokens(None)
    assert wide.ask("what is it?", image, max_new_tokens=2) == whole


def test_more_tokens_than_there_are_change_nothing(wide, picture):
    whole = wide.ask("what is it?", [picture(112, 112)], max_new_tokens=2)
    wide.keep_tokens(1000)
    assert wide.processor.settings.tokens == 16
    assert wide.ask("what is it?", [picture(112, 112)], max_new_tokens=2) == whole


def test_a_number_that_is_not_allowed_changes_nothing(wide):
    for count, message in ((0, "keep is 0"), (-3, "keep is -3")):
        with pytest.raises(InputError, match=message):
            wide.keep_tokens(count)
    assert wide.model.vision.keep is None
    assert wide.processor.settings.tokens == 16
    wide.keep_tokens(5)
    wide.processor = wide.processor.with_settings(max_tokens=10)
    with pytest.raises(InputError, match="max_tokens 10 is not allowed: one chunk takes 16"):
        wide.keep_tokens(None)
    assert (wide.model.vision.keep, wide.processor.settings.tokens) == (5, 5)
