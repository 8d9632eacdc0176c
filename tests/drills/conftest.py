"""Count what each drill tries and what it finds; the table is printed at the end of the run (tests/README.md)."""

import re
from dataclasses import dataclass, field

import pytest

LONGEST = 2000  # characters of a message that a person still reads
RAW = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # what a terminal would obey


def pytest_generate_tests(metafunc):
    """Give a drill its short and its long number of trials: ``@pytest.mark.trials(short=40, long=10_000)``."""
    marker = metafunc.definition.get_closest_marker("trials")
    if marker:
        long = pytest.param(marker.kwargs["long"], marks=[pytest.mark.slow, pytest.mark.timeout(3600)])
        metafunc.parametrize("trials", [marker.kwargs["short"], long])


@dataclass
class Drill:
    """What one drill tried, and each fault that it found."""

    tried: int = 0
    faults: list[str] = field(default_factory=list)

    def expect(self, case, right, fault):
        """Count one trial; unless ``right``, note ``fault``."""
        self.tried += 1
        if not right:
            self.faults.append(f"{case}: {fault}")

    def attempt(self, case, action):
        """Call ``action()`` and return its answer, or the PlmError that it raised; anything else raised is a fault."""
        from plm_core.errors import PlmError

        try:
            answer = action()
        except PlmError as error:
            self.expect(case, readable(str(error)), f"unreadable message {str(error)[:200]!r}")
            return error
        except Exception as error:
            self.expect(case, False, f"bare {type(error).__name__}: {str(error)[:200]}")
            return error
        self.expect(case, True, "")
        return answer

    def command(self, case, result):
        """Count one command (code, out, err): it succeeds, or says why in one line; a traceback is a fault."""
        told = result.code == 0 or "plm: error: " in result.err or "Usage:" in result.err
        wrong = "Traceback (most recent call last)" in result.out + result.err or not told
        self.expect(case, not wrong, f"exit {result.code}: {result.err[-300:]!r}")
        return result


def readable(message):
    """Return whether a message is one that a terminal shows as it is, of a length that a person reads."""
    return len(message) <= LONGEST and not RAW.search(message)


@pytest.fixture
def drill(request, record_property):
    """Yield a `Drill`; the test fails when it found a fault or tried nothing."""
    drill = Drill()
    yield drill
    name = f"{request.node.path.stem.removeprefix('test_')}: {request.node.originalname.removeprefix('test_')}"
    record_property("drill", (name.replace("_", " "), drill.tried, len(drill.faults)))
    assert drill.tried, "the drill tried nothing"
    assert not drill.faults, f"{len(drill.faults)} of {drill.tried}:\n" + "\n".join(drill.faults[:20])
