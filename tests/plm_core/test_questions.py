"""The questions of the procedural world: pixels give the same answers, guessing does not, and no word is missing."""

import math
import re
import subprocess
import sys
from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plm_core import shapes
from plm_core.shapes import draw, graph, questions
from plm_core.shapes.questions import (
    CLIP_KINDS,
    PICTURE_KINDS,
    QUESTION_WORDS,
    ClipQuestions,
    ImageQuestions,
    join_words,
    majority_scores,
    split_words,
    text_questions,
)
from plm_core.shapes.questions.asking import Question, region_text
from plm_core.shapes.questions.stories import is_possible

COLOUR, SHAPE = "|".join(shapes.COLOURS), "|".join(shapes.SHAPES)
NAME = rf"(?P<name>(?:{COLOUR}) (?:{SHAPE}))"
OTHER = rf"(?P<other>(?:{COLOUR}) (?:{SHAPE}))"
VERBS = {
    "stays still": "still",
    "moves left": "left",
    "moves right": "right",
    "moves up": "up",
    "moves down": "down",
    "grows": "grow",
    "shrinks": "shrink",
    "spins": "spin",
    "blinks": "blink",
}
PINNED_PICTURE = [
    ("list the shapes from left to right.", "a cyan cross"),
    ("describe the picture from left to right.", "there is 1 shape. it is a small cyan cross."),
    ("is there a cyan cross?", "yes"),
    ("how many shapes are there?", "1"),
    ("what colour is the cross?", "cyan"),
    ("what shape is cyan?", "cross"),
    ("is the cyan cross small or large?", "small"),
    ("in which quarter of the picture is the cyan cross?", "top right"),
    ("is the cyan cross at the left, in the middle or at the right?", "middle"),
    ("what is in [500,187,708,375]?", "a cyan cross"),
    ("where is the cyan cross?", "[500,187,708,375]"),
]
PINNED_CLIP = [
    ("what does the green circle do?", "(a)"),
    ("what does the green circle do?", "(a)"),
    ("what does the green circle do?", "(b)"),
    ("what does the green circle do last?", "it moves left"),
    ("what does the shape in the red box do in the frames [0,4]?", "it stays still"),
    ("in which frames is this true: the shape in the red box moves left?", "[5,7]"),
    ("what does the shape in the red box do, and in which frames?", "[0,4] it stays still, [5,7] it moves left"),
]
CEILINGS = {  # what the most frequent reply may be right for
    "exists": 0.55,
    "relation": 0.55,
    "comparison": 0.55,
    "size": 0.6,
    "third": 0.4,
    "count": 0.33,
    "quarter": 0.33,
    "shape": 0.18,
    "colour": 0.15,
    "caption": 0.05,
    "description": 0.05,
    "region": 0.05,
    "locate": 0.05,
    "fgqa": 0.55,
    "sgqa": 0.15,
    "rcap": 0.2,
    "rtloc": 0.18,
    "rdcap": 0.12,
}


@pytest.fixture(scope="module")
def scenes():
    return list(ImageQuestions("heldout", size=48, count=600))


@pytest.fixture(scope="module")
def clips():
    return list(ClipQuestions("heldout", size=48, count=240, objects=(1, 3)))


def asked(items, *kinds):
    return [(item, question) for item in items for question in item.questions if question.kind in kinds]


# --- Reading a picture ---


def area(shape):
    """The area of a shape in a disc of radius 1."""
    sprite = graph.Sprite(shape, "red", "large", (255, 0, 0), x=100, y=100, radius=90, angle=0)
    return draw.paint(np.zeros((200, 200, 3), np.float32), [sprite]).sum() / 90**2


AREAS = {shape: area(shape) for shape in shapes.SHAPES}


class Seen:
    """An object as its mask and the pixels below it show it. Only its shape is taken from its label."""

    def __init__(self, scene, thing):
        rows, columns = np.nonzero(thing.mask)
        side = len(scene.image)
        self.edges = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        self.x = (self.edges[0] + self.edges[2]) / 2 / side
        self.y = (self.edges[1] + self.edges[3]) / 2 / side
        self.side = max(self.edges[2] - self.edges[0], self.edges[3] - self.edges[1])
        self.pixels = len(rows)
        self.size = "small" if math.sqrt(self.pixels / AREAS[thing.shape]) < 0.15 * side else "large"
        median = np.median(scene.image[thing.mask], axis=0)
        self.colour = min(shapes.COLOURS, key=lambda colour: math.dist(median, shapes.PALETTE[colour]))
        self.shape = thing.shape
        self.name = f"{self.colour} {self.shape}"


def one(things, **wanted):
    """The one thing that has these attributes."""
    (thing,) = [thing for thing in things if all(getattr(thing, key) == value for key, value in wanted.items())]
    return thing


def article(name):
    return ("an " if name[0] in "aeiou" else "a ") + name


def read_caption(things, match):
    names = [article(thing.name) for thing in sorted(things, key=lambda thing: thing.x)]
    return re.sub(r", ([^,]*)$", r" and \1", ", ".join(names))


def read_description(things, match):
    names = [f"the {thing.size} {thing.name}" for thing in sorted(things, key=lambda thing: thing.x)]
    if len(names) == 1:
        return f"there is 1 shape. it is a {names[0].removeprefix('the ')}."
    pairs = [f" {a} is left of {b}." for a, b in pairwise(names)]
    return f"there are {len(names)} shapes.{''.join(pairs)}"


def read_exists(things, match):
    return "yes" if any(thing.name == match["name"] for thing in things) else "no"


def read_relation(things, match):
    a, b = one(things, name=match["name"]), one(things, name=match["other"])
    dx, dy = b.x - a.x, b.y - a.y
    distance = {"left of": dx, "right of": -dx, "above": dy, "below": -dy}[match["relation"]]
    assert abs(distance) >= 0.15 - 1e-9
    return "yes" if distance > 0 else "no"


def read_count(things, match):
    return str(sum(match["word"] in ("there", thing.colour, thing.size) for thing in things))


def read_comparison(things, match):
    pair = [one(things, name=match[key]) for key in ("name", "other")]
    largest, smallest = sorted(pair, key=lambda thing: thing.side, reverse=True)
    assert largest.side >= 1.3 * smallest.side
    assert largest.pixels >= 1.3 * smallest.pixels
    return "(a)" if (largest is pair[0]) == (match["word"] == "larger") else "(b)"


def read_quarter(things, match):
    thing = one(things, name=match["name"])
    assert min(abs(thing.x - 0.5), abs(thing.y - 0.5)) >= 0.05 - 1e-9
    return f"{'top' if thing.y < 0.5 else 'bottom'} {'left' if thing.x < 0.5 else 'right'}"


def read_third(things, match):
    thing = one(things, name=match["name"])
    place = thing.x if match["low"] == "left" else thing.y
    assert min(abs(place - 1 / 3), abs(place - 2 / 3)) >= 0.05 - 1e-9
    return match["low"] if place < 1 / 3 else "middle" if place < 2 / 3 else match["high"]


def thousandths(thing):
    return "[" + ",".join(f"{edge * 1000 // 48:03d}" for edge in thing.edges) + "]"


def read_region(things, match):
    (thing,) = [thing for thing in things if thousandths(thing) == match["region"]]
    x0, y0, x1, y1 = (edge / 48 for edge in thing.edges)
    assert not [t for t in things if t is not thing and x0 <= t.x <= x1 and y0 <= t.y <= y1]
    return article(thing.name)


READERS = {
    "caption": (r"list the shapes from left to right\.", read_caption),
    "description": (r"describe the picture from left to right\.", read_description),
    "exists": (rf"is there an? {NAME}\?", read_exists),
    "relation": (rf"is the {NAME} (?P<relation>left of|right of|above|below) the {OTHER}\?", read_relation),
    "count": (rf"how many shapes are (?P<word>there|small|large|{COLOUR})\?", read_count),
    "colour": (
        rf"what colour is the (?:(?P<size>small|large) )?(?P<shape>{SHAPE})\?",
        lambda things, match: one(things, **{k: v for k, v in match.groupdict().items() if v}).colour,
    ),
    "shape": (
        rf"what shape is (?:(?P<size>small|large) and )?(?P<colour>{COLOUR})\?",
        lambda things, match: one(things, **{k: v for k, v in match.groupdict().items() if v}).shape,
    ),
    "size": (rf"is the {NAME} small or large\?", lambda things, match: one(things, name=match["name"]).size),
    "comparison": (
        rf"which is (?P<word>larger|smaller)\? options: \(a\) the {NAME} \(b\) the {OTHER}",
        read_comparison,
    ),
    "quarter": (rf"in which quarter of the picture is the {NAME}\?", read_quarter),
    "third": (
        rf"is the {NAME} at the (?P<low>left|top), in the middle or at the (?P<high>right|bottom)\?",
        read_third,
    ),
    "region": (r"what is in (?P<region>\[[\d,]+\])\?", read_region),
    "locate": (
        rf"where is the {NAME}\?",
        lambda things, match: thousandths(one(things, name=match["name"])),
    ),
}


@pytest.mark.parametrize("kind", PICTURE_KINDS)
def test_pixels_give_the_answers_about_pictures(scenes, kind):
    pattern, read = READERS[kind]
    pairs = asked(scenes, kind)
    assert len(pairs) > len(scenes) / 3
    for scene, question in pairs:
        match = re.fullmatch(pattern, question.prompt)
        assert match, question.prompt
        assert read([Seen(scene, thing) for thing in scene.objects], match) == question.reply, question.prompt


def test_pictures_hide_nothing_and_lists_have_a_clear_order(scenes):
    for scene in scenes:
        boxes = [Seen(scene, thing) for thing in scene.objects]
        if any(question.kind in ("caption", "description") for question in scene.questions):
            places = sorted(seen.x for seen in boxes)
            assert all(b - a >= 0.05 - 1e-9 for a, b in pairwise(places))
        for thing in scene.objects:
            assert {seen.name for seen in boxes} >= {f"{thing.colour} {thing.shape}"}
    assert max(len(scene.objects) for scene in scenes) == 4


def test_boxes_and_objects_of_questions_are_those_of_the_answers(scenes):
    for scene, question in asked(scenes, "region", "locate"):
        assert question.box == scene.objects[question.object].box
        assert region_text(question.box, 48) in question.question + question.answer
    for scene, question in asked(scenes, "colour", "shape", "size"):
        assert question.answer == getattr(scene.objects[question.object], question.kind)


@pytest.mark.parametrize(
    ("box", "size", "text"),
    [
        ((10, 20, 40, 60), 100, "[100,200,400,600]"),
        ((0, 0, 48, 48), 48, "[000,000,999,999]"),
        ((-1, 29, 30, 120), 100, "[000,290,300,999]"),
        ((1, 2, 3, 4), 48, "[020,041,062,083]"),
    ],
)
def test_regions_are_cut_to_thousandths(box, size, text):
    assert region_text(box, size) == text


# --- Watching a clip ---


def watch(track, start, end):
    """The motion of an object in the frames [start, end), from its masks alone."""
    masks = track.masks[start:end]
    area = masks.sum((1, 2)).astype(int)
    if not area.all():
        return "blink"
    centres = (
        np.array([np.argwhere(mask.any(0)).mean() for mask in masks]),
        np.array([np.argwhere(mask.any(1)).mean() for mask in masks]),
    )
    dx, dy = (places[-1] - places[0] for places in centres)
    if (masks == masks[0]).all():
        return "still"
    if (np.roll(masks[0], (round(dy), round(dx)), (0, 1)) == masks[-1]).all() and (dx or dy):
        return {(1, 0): "right", (-1, 0): "left", (0, 1): "down", (0, -1): "up"}[np.sign(dx), np.sign(dy)]
    if max(area) > 1.8 * min(area):
        return "grow" if area[-1] > area[0] else "shrink"
    return "spin"


def story_of(clip, index):
    return [event for event in clip.events if event.object == index]


def test_events_are_seen_in_the_masks(clips):
    for clip in clips:
        for index, track in enumerate(clip.objects):
            events = story_of(clip, index)
            assert [e.start for e in events] == [0, *(e.end for e in events[:-1])]
            assert events[-1].end == len(clip.frames)
            assert is_possible(track.shape, [event.motion for event in events])
            for _, motion, start, end in events:
                assert end - start >= 2 + (motion == "blink")
                assert watch(track, start, end) == motion
                if motion != "blink" and start:  # it holds its pose from one motion to the next
                    before = track.masks[start - 1]
                    assert not before.any() or (before == track.masks[start]).all()
    assert {event.motion for clip in clips for event in clip.events} == set(shapes.MOTIONS)
    assert {len(story_of(clip, 0)) for clip in clips} == {1, 2, 3}


def test_moves_are_long_enough_to_be_seen(clips):
    for clip in clips:
        for index, motion, start, end in clip.events:
            if motion in ("left", "right", "up", "down"):
                boxes = clip.objects[index].boxes
                assert np.abs(boxes[end - 1] - boxes[start]).max() >= 0.12 * 48


def test_objects_of_clips_never_meet(clips):
    for clip in clips:
        masks = np.stack([track.masks for track in clip.objects])
        assert masks.sum(0).max() == 1
        for track in clip.objects:
            visible = track.boxes[track.masks.any((1, 2))]
            assert visible.min() > 0
            assert visible.max() < 48


def told(clip, index):
    return "it " + ", then ".join(
        {motion: verb for verb, motion in VERBS.items()}[watch(clip.objects[index], event.start, event.end)]
        for event in story_of(clip, index)
    )


def pointed(clip, question):
    """The index of the object that a question about a clip points at."""
    names = [f"the {track.colour} {track.shape}" for track in clip.objects]
    if question.track is None:
        (index,) = [index for index, name in enumerate(names) if name in question.question]
        assert "box" not in question.question
        return index
    assert "the shape in the red box" in question.question
    assert not any(name in question.question for name in names)
    (index,) = [
        index
        for index, track in enumerate(clip.objects)
        if all(
            box is None
            if not mask.any()
            else mask[int(box[1]) : int(box[3]), int(box[0]) : int(box[2])].sum() == mask.sum()
            for box, mask in zip(question.track, track.masks, strict=True)
        )
    ]
    return index


def test_masks_give_the_captions_of_spans(clips):
    pairs = asked(clips, "rcap")
    assert len(pairs) == len(clips)
    for clip, question in pairs:
        index = pointed(clip, question)
        first, last = map(int, re.search(r"do in the frames \[(\d),(\d)\]\?$", question.question).groups())
        assert (
            question.answer
            == f"it {next(v for v, m in VERBS.items() if m == watch(clip.objects[index], first, last + 1))}"
        )
        assert (question.object, question.span) == (index, (first, last))


def test_masks_give_the_spans_of_captions(clips):
    pairs = asked(clips, "rtloc")
    assert len(pairs) > len(clips) / 2
    for clip, question in pairs:
        index = pointed(clip, question)
        (verb,) = [verb for verb in VERBS if question.question.endswith(f" {verb}?")]
        spans = [
            (e.start, e.end - 1)
            for e in story_of(clip, index)
            if watch(clip.objects[index], e.start, e.end) == VERBS[verb]
        ]
        assert [question.answer] == [f"[{first},{last}]" for first, last in spans]
        assert question.span == spans[0]
        assert question.span != (0, 7)


def test_masks_give_the_dense_captions(clips):
    for clip, question in asked(clips, "rdcap"):
        index = pointed(clip, question)
        pieces = re.findall(r"\[(\d),(\d)\] it ([a-z ]+)(?:, |$)", question.answer)
        assert [watch(clip.objects[index], int(first), int(last) + 1) for first, last, _ in pieces] == [
            VERBS[verb] for _, _, verb in pieces
        ]
        frames = [frame for first, last, _ in pieces for frame in range(int(first), int(last) + 1)]
        assert frames == list(range(8))


def who(clip, verb):
    """The names of the objects that do something at some time."""
    return {
        f"the {track.colour} {track.shape}"
        for index, track in enumerate(clip.objects)
        for event in story_of(clip, index)
        if watch(track, event.start, event.end) == VERBS[verb]
    }


def test_masks_give_the_answers_to_open_questions(clips):
    forms = Counter()
    for clip, question in asked(clips, "sgqa"):
        if match := re.fullmatch(r"which shape ([a-z ]+)\?", question.question):
            assert who(clip, match[1]) == {question.answer}
            forms["which"] += 1
            continue
        index = pointed(clip, question)
        (which,) = re.findall(r" do( first| last|)\?$", question.question)
        whole = told(clip, index).removeprefix("it ").split(", then ")
        part = {"": whole, " first": whole[:1], " last": whole[-1:]}[which]
        assert question.answer == "it " + ", then ".join(part)
        forms[which] += 1
    assert min(forms.values()) > 30
    assert len(forms) == 4


def test_exactly_one_option_is_right(clips):
    sizes = Counter()
    for clip in clips:
        rows = [question for question in clip.questions if question.kind == "fgqa"]
        if not rows:
            continue
        assert len({(row.group, row.question, row.answer) for row in rows}) == 1
        assert len({row.options for row in rows}) == len({frozenset(row.options) for row in rows}) == len(rows)
        sizes[len(rows)] += 1
        for row in rows:
            if match := re.fullmatch(r"which shape ([a-z ]+)\?", row.question):
                right = who(clip, match[1])
            else:
                right = {told(clip, pointed(clip, row))}
            assert set(row.options) & right == {row.answer}
            assert row.options["ab".index(row.reply[1])] == row.answer
    assert sizes[3] > sizes[2] > 0


def test_wrong_options_differ_in_one_detail(clips):
    details = Counter()
    for clip, row in asked(clips, "fgqa"):
        (wrong,) = set(row.options) - {row.answer}
        a, b = (option.removeprefix("it ").split(", then ") for option in (row.answer, wrong))
        if row.question.startswith("which"):
            a, b = row.answer.split(), wrong.split()
            details["colour" if a[1] != b[1] else "shape"] += 1
            (motion,) = [motion for verb, motion in VERBS.items() if row.question == f"which shape {verb}?"]
            assert is_possible(b[2], [motion])
        elif sorted(a) == sorted(b):
            details["order"] += 1
            continue
        else:
            assert is_possible(clip.objects[row.object].shape, [VERBS[verb] for verb in b])
            details["motion"] += 1
        assert len(a) == len(b)
        assert sum(x != y for x, y in zip(a, b, strict=True)) == 1
    assert min(details.values()) > 50
    assert set(details) == {"colour", "shape", "order", "motion"}


# --- Boxes ---


def test_boxes_are_drawn_around_the_object_and_only_where_it_is_seen(clips):
    hidden = 0
    for clip, question in asked(clips, "rcap", "rtloc", "rdcap"):
        if question.track is None:
            continue
        drawn = questions.draw_boxes(clip.frames, question.track)
        changed = (drawn != clip.frames).any(-1)
        assert not (changed & clip.objects[question.object].masks).any()
        assert (drawn[changed] == (255, 0, 0)).all()
        for box, lines in zip(question.track, changed, strict=True):
            hidden += box is None
            assert lines.any() == (box is not None)
            if box is not None:
                rows, columns = np.nonzero(lines)
                assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == box
                x0, y0, x1, y1 = map(int, box)
                assert lines.sum() == 2 * (x1 - x0 + y1 - y0) - 4  # one pixel wide
    assert hidden


# --- Guessing ---


def test_the_most_frequent_reply_is_seldom_right(scenes, clips):
    everything = [question for item in (*scenes, *clips) for question in item.questions]
    scores = majority_scores(everything)
    assert set(scores) == set(CEILINGS) == {*PICTURE_KINDS, *CLIP_KINDS}
    assert {kind: score for kind, score in scores.items() if score > CEILINGS[kind]} == {}


def test_the_words_of_a_question_do_not_give_its_answer_away(scenes):
    """Learn the most frequent reply to each form of a question on one half, and try it on the other."""
    replies = defaultdict(Counter)
    right, total = Counter(), Counter()
    for number, (_, question) in enumerate(asked(scenes, *PICTURE_KINDS)):
        form = (question.kind, re.sub(rf"\b({COLOUR}|{SHAPE}|an?|\d+)\b", "", question.question))
        if number % 2:
            replies[form][question.reply] += 1
    for number, (_, question) in enumerate(asked(scenes, *PICTURE_KINDS)):
        form = (question.kind, re.sub(rf"\b({COLOUR}|{SHAPE}|an?|\d+)\b", "", question.question))
        if number % 2 == 0 and replies[form]:
            right[question.kind] += replies[form].most_common(1)[0][0] == question.reply
            total[question.kind] += 1
    scores = {kind: right[kind] / total[kind] for kind in total}
    assert {kind: score for kind, score in scores.items() if score > CEILINGS[kind] + 0.05} == {}


def test_no_option_looks_right_by_itself(clips):
    """Learn how often each option is right on other clips, and choose the one that is right more often."""
    seen = defaultdict(list)
    for clip in ClipQuestions(size=32, count=400, kinds=("fgqa",), background="plain"):
        for row in clip.questions:
            for option in row.options:
                seen[option].append(option == row.answer)

    def trust(option):
        return (sum(seen[option]) + 2) / (len(seen[option]) + 4)

    rows = [row for _, row in asked(clips, "fgqa")]
    assert np.mean([max(row.options, key=trust) == row.answer for row in rows]) < 0.57


def test_no_span_fits_most_motions(clips):
    spans = [question.span for _, question in asked(clips, "rtloc")]

    def recall(a, b):
        overlap = max(0, min(a[1], b[1]) - max(a[0], b[0]))
        union = a[1] - a[0] + b[1] - b[0] - overlap
        return np.mean([overlap / union > t for t in (0.3, 0.5, 0.7, 0.9)])

    guesses = [(a, b) for a in range(8) for b in range(a + 1, 8)]
    assert max(np.mean([recall(guess, span) for span in spans]) for guess in guesses) < 0.3


# --- Words ---


def texts(items):
    for question in [*text_questions(), *(question for item in items for question in item.questions)]:
        yield from (question.prompt, question.reply, question.answer)
    yield from (item.caption for item in items)


def test_the_vocabulary_is_closed_and_every_word_of_it_is_used(scenes, clips):
    pair = "which picture has a red circle, the first or the second?"  # written by plm_core.lm.shapes_data
    used = set()
    for text in [*texts(scenes), *texts(clips), pair]:
        words = split_words(text)
        assert join_words(words) == text
        used.update(words)
    assert used == set(QUESTION_WORDS)
    assert len(QUESTION_WORDS) == len(set(QUESTION_WORDS)) < 200


def test_unknown_words_are_named():
    with pytest.raises(ValueError, match=r"does not know: lobster$"):
        split_words("is there a lobster?")
    with pytest.raises(ValueError, match=r"does not know: !$"):
        split_words("yes!")
    assert split_words("a circle\nand a star") == ["a", "circle", "and", "a", "star"]


@given(st.lists(st.integers(0, 999), min_size=1, max_size=5))
def test_numbers_come_back_from_their_digits(numbers):
    text = f"[{','.join(map(str, numbers))}] it spins, [{numbers[0]},{numbers[-1]}] it blinks"
    assert join_words(split_words(text)) == text


def test_text_questions_have_one_answer_each():
    answers = defaultdict(set)
    for question in text_questions():
        answers[question.question].add(question.answer)
    assert len(answers) == len(text_questions()) == 8 + 10 + 2 + 16
    assert all(len(each) == 1 for each in answers.values())


# --- Datasets ---


def test_questions_are_pinned():
    scene = ImageQuestions("train", size=48, seed=7)[0]
    clip = ClipQuestions("heldout", size=48, seed=7)[3]
    assert [(q.prompt, q.reply) for q in scene.questions] == PINNED_PICTURE
    assert [(q.question, q.reply) for q in clip.questions] == PINNED_CLIP


def test_an_item_does_not_depend_on_what_was_read_before_it():
    for dataset in (ImageQuestions, ClipQuestions):
        forwards, backwards = list(dataset(size=32, count=5)), dataset(size=32, count=9)
        for index in reversed(range(5)):
            assert forwards[index].questions == backwards[index].questions
            assert forwards[index].caption == backwards[index].caption


@settings(max_examples=25, deadline=None)
@given(
    size=st.integers(32, 72),
    frames=st.integers(4, 32),
    seed=st.integers(0, 2**64 - 1),
    most=st.integers(1, 3),
    kind=st.sampled_from(sorted(CLIP_KINDS)),
)
def test_clips_of_any_length_have_questions(size, frames, seed, most, kind):
    clip = ClipQuestions(size=size, frames=frames, seed=seed, objects=(1, most), kinds=(kind,))[0]
    assert clip.frames.shape == (frames, size, size, 3)
    assert 1 <= len(clip.objects) <= most
    assert {question.kind for question in clip.questions} == {kind}
    for question in clip.questions:
        assert join_words(split_words(question.prompt)) == question.prompt


@pytest.mark.parametrize("kind", PICTURE_KINDS)
def test_every_picture_has_a_question_of_the_one_kind(kind):
    for scene in ImageQuestions(size=32, count=10, kinds=(kind,)):
        assert [question.kind for question in scene.questions] == [kind]


@pytest.mark.parametrize(
    ("dataset", "options", "message"),
    [
        (ImageQuestions, {"split": "test"}, "split must be one of 'train', 'heldout', not 'test'"),
        (ImageQuestions, {"kinds": ("caption", "age")}, "kinds must be one of 'caption', 'description', .*, not 'age'"),
        (ImageQuestions, {"kinds": ()}, r"kinds must be one or more of 'caption', .*, not \(\)"),
        (ImageQuestions, {"kinds": "size"}, "kinds must be one or more of 'caption', .*, not 'size'"),
        (
            ImageQuestions,
            {"kinds": ("relation",), "objects": (1, 1)},
            "objects must allow two or more for the kinds 'relation'",
        ),
        (ImageQuestions, {"objects": (1, 5)}, r"objects must be .* <= most <= 4, not \(1, 5\)"),
        (ClipQuestions, {"objects": (1, 4)}, r"objects must be .* <= most <= 3, not \(1, 4\)"),
        (ClipQuestions, {"frames": 3}, "frames must be a whole number from 4 to 32, not 3"),
        (ClipQuestions, {"frames": 33}, "frames must be a whole number from 4 to 32, not 33"),
        (ClipQuestions, {"kinds": ("vqa",)}, "kinds must be one of 'fgqa', .*, not 'vqa'"),
    ],
)
def test_bad_arguments(dataset, options, message):
    with pytest.raises(ValueError, match=rf"^{message}$"):
        dataset(**options)


def test_questions_without_options_reply_with_the_answer():
    question = Question(kind="size", question="is the red circle small or large?", answer="large")
    assert (question.prompt, question.reply) == (question.question, "large")


def test_imports_stay_light():
    """The words come without NumPy, and the datasets without what is heavier."""
    steps = (
        "from plm_core.shapes.questions import QUESTION_WORDS",
        "from plm_core.shapes.questions import ImageQuestions",
    )
    heavy = {"numpy", "torch", "timm", "torchvision", "PIL"}
    check = "; ".join(["import sys", *(f"{step}; print(*sorted({heavy} & set(sys.modules)))" for step in steps)])
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["", "numpy"]
