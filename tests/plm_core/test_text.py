"""Text from files in messages: one line, of a length that a person reads, that no terminal obeys."""

import pickle

import pytest

from plm_core import errors
from plm_core.utils.text import first_line, shown


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("blocks.0.w", "blocks.0.w"),
        ('ünïcode 漢字, "quotes" and a \\', 'ünïcode 漢字, "quotes" and a \\'),
        ("a\nplm: error: fake", "a\\nplm: error: fake"),
        ("\x1b[31mred\x07\r\t\x00\x9b", "\\x1b[31mred\\x07\\r\\t\\x00\\x9b"),
        ("\u202edesrever\u2028\ufeff", "\\u202edesrever\\u2028\\ufeff"),
        ("undecodable \udcff", "undecodable \\udcff"),
        ("a" * 80, "a" * 80),
        ("a" * 81, "a" * 80 + "..."),
        ("\n" * 10**6, "\\n" * 40 + "..."),
        ("", ""),
    ],
)
def test_text_of_a_file_is_one_short_line_for_a_terminal(text, line):
    assert shown(text) == line


@pytest.mark.parametrize("kind", [kind for kind in vars(errors).values() if isinstance(kind, type)])
def test_no_error_of_ours_breaks_its_line_or_steers_the_terminal(kind):
    details = ("x", 15, 3, None) if kind is errors.TrainingInterrupted else ()
    error = kind("no tensor 'a\n\x1b[2Jb'", *details[1:])
    assert str(error) == "no tensor 'a\\n\\x1b[2Jb'"
    if not details:
        assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert str(kind("Größe 'a\\b' µ", *details[1:])) == "Größe 'a\\b' µ"


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no message")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("\n  first\x1b[0m \nsecond"), "first\\x1b[0m "),
        (ValueError("x" * 10**6), "x" * 500 + "..."),
        (ValueError(), "ValueError"),
        (Mute(), "Mute"),
    ],
)
def test_the_first_line_of_any_error(error, line):
    assert first_line(error) == line
    if line in ("ValueError", "Mute"):
        assert first_line(error, empty="(none)") == "(none)"


def test_a_long_value_is_cut_out_of_a_message_and_what_is_allowed_stays():
    message = str(errors.InputError(f"r is {list(range(9999))}; it can be an integer"))
    assert len(message) == 1005
    assert message.startswith("r is [0, 1, 2, ")
    assert message.endswith("9997, 9998]; it can be an integer")
    assert str(errors.InputError("x" * 1000)) == "x" * 1000
