"""Broken plug-ins, one at a time: plm goes on with the others, the doctor has a line, stdout stays data."""

import json
import random
import re
from contextlib import contextmanager

import pytest
import timm

from plm_core.hookspecs import KINDS, Model
from plm_core.registry import registry
from plm_core.testing import write_distribution

HEAD = "from plm_core.hookspecs import *\nfrom plm_core import hookspecs\nimport sys\n"
GOOD = "Model(name='demo_net', family='demo', builder='no_such:f', params=1)"
RAW = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # what a terminal would obey
# What is wrong, as an expression or a statement that runs at import or in a hook.
FAILING = {
    "exception": "raise RuntimeError('x')",
    "no message": "raise KeyError",
    "exit": "sys.exit(0)",
    "panic": "raise type('Panic', (BaseException,), {})('x')",
    "mute": "raise type('Mute', (Exception,), {'__str__': lambda self: 1 / 0})",
    "exit in str": "raise type('Quits', (Exception,), {'__str__': lambda self: sys.exit(3)})",
    "number as text": "raise type('Odd', (Exception,), {'__str__': lambda self: 5})",
    "terminal": "raise ValueError('\\x1b[2J\\x07\\r\\u202e\\n' + 'a' * 10**6)",
    "surrogate": "raise ValueError('\\udcff')",
    "group": "raise ExceptionGroup('g', [ValueError('a'), TypeError('b')])",
    "stop": "raise StopIteration",
    "generator exit": "raise GeneratorExit",
    "recursion": "f = lambda f: f(f); f(f)",
    "memory": "raise MemoryError",
    "import": "import no_such_module",
    "syntax": "exec('def (')",
    "assertion": "assert False",
    "encoding": "b'\\xff'.decode()",
    "system error": "raise OSError(28, 'No space left on device')",
}
# What a hook returns.
RETURNED = {
    "none": "None", "number": "7", "text": "'abc'", "type": "[Model]", "kind": "[Scorer(name='x', score='a:b')]",
    "bare": GOOD, "none inside": f"[{GOOD}, None]", "endless str": "[type('S', (str,), {'__iter__': None})('x')]",
    "dict": "{'demo': 1}", "failing iterator": "map(lambda n: 1 // n, [1, 0])",
    "iter": "type('I', (), {'__iter__': lambda self: (_ for _ in ()).throw(BaseException('x'))})()",
    "duplicate": f"[{GOOD}, {GOOD}]", "shadow": f"[{GOOD.replace('demo_net', 'hiera_micro_digits')}]",
    "timm's": f"[{GOOD.replace('demo_net', 'resnet18')}]",
    "eq": f"[type('M', (Model,), {{'__eq__': lambda *_: 1 / 0}})(**vars({GOOD}))]",
    "hash": f"[type('M', (Model,), {{'__hash__': None}})(**vars({GOOD}))]",
    "repr": f"[type('M', (Model,), {{'__repr__': lambda _: 1 / 0}})(**vars({GOOD}))]",
}  # fmt: skip
# Values for any field of a model.
VALUES = {
    "None": "None", "negative": "-1", "nan": "float('nan')", "huge": "10 ** 400", "empty": "''",
    "terminal": "'\\x1b[31m'",
    "dots": "'../x'", "long": "'x' * 10 ** 6", "bytes": "b'x'", "object": "object()", "function": "len",
    "unhashable": "type('S', (str,), {'__hash__': None})('x')",
    "unequal": "type('S', (str,), {'__eq__': lambda *_: 1 / 0, '__hash__': str.__hash__})('x')",
    "tuple": "()", "tuples": "((),)", "dict": "{}", "odd dict": "{1: 2}",
    "hostile dict": "type('D', (dict,), {'items': lambda self: 1 / 0})()", "input": "Input(size=())",
    "inputs": "Input(size=(3, 10 ** 30, -5))", "weights": "(Pretrained(tag='a b', license='', repo='x'),)",
    "no file": "(Pretrained(tag='t', license='MIT', file='no_such:x'),)", "true": "True", "surrogate": "'\\udcff'",
}  # fmt: skip
FIELDS = ("name", "family", "builder", "params", "config", "task", "input", "num_classes", "classifier", "pretrained",
          "needs", "micro", "license", "paper", "out_indices")  # fmt: skip


def kinds():
    """Return name -> source of a plug-in module."""
    for name, statement in FAILING.items():
        yield f"import: {name}", f"{HEAD}{statement}\n"
        yield f"hook: {name}", f"{HEAD}@hookimpl\ndef plm_models():\n    {statement}\n"
    for name, value in RETURNED.items():
        yield f"return: {name}", f"{HEAD}@hookimpl\ndef plm_models():\n    return {value}\n"
    for kind in KINDS:
        if kind is not Model:
            yield f"{kind.__name__}: wrong kind", f"{HEAD}@hookimpl\ndef {kind.hook}():\n    return [{GOOD}]\n"
    for field in FIELDS:
        for name, value in VALUES.items():
            yield (
                f"{field}: {name}",
                (f"{HEAD}@hookimpl\ndef plm_models():\n    return [Model(**vars({GOOD}) | {{{field!r}: {value}}})]\n"),
            )
    yield "prints", f"{HEAD}print('not data')\n@hookimpl\ndef plm_models():\n    print('not data')\n    return []\n"
    yield "no hooks", "x = 1\n"


@contextmanager
def installed(plm_registry, folder, source, damage=None):
    """Install a plug-in, or one with a damaged file of its metadata, and yield the registry."""
    module = f"broken_{abs(hash(source)) % 10**9}"
    distribution = {"name": "broken", "modules": {f"{module}.py": source}, "entry_points": {"broken": module}}
    with pytest.MonkeyPatch.context() as patch:
        write_distribution(folder, **distribution)
        if damage:
            name, content = damage
            (folder / "broken-1.0.dist-info" / name).write_bytes(content)
        patch.syspath_prepend(folder)
        yield plm_registry()


BYTES = (b"\xff\xfe", b"", b"\0" * 100, b"[plm\nbroken", b"[plm]\nbroken", b"[plm]\n= x\n", b"Name: \x1b[31m\n\n")
DAMAGES = [(name, content) for name in ("METADATA", "entry_points.txt") for content in BYTES]


@pytest.mark.trials(short=12, long=10_000)
def test_broken_plugins(plm, drill, trials, plm_registry, tmp_path):
    cases = [(name, source, None) for name, source in kinds()]
    cases += [(f"{damage[0]}: {damage[1][:10]}", f"{HEAD}x = 1\n", damage) for damage in DAMAGES]
    chance = random.Random(0)
    for number, (name, source, damage) in enumerate(chance.sample(cases, min(trials, len(cases)))):
        folder = tmp_path / str(number)
        folder.mkdir()
        try:
            with installed(plm_registry, folder, source, damage):
                listed = plm("list", "--json")
                models = {row["model"] for row in json.loads(listed.out)} if listed.code == 0 else set()
                drill.expect(f"list, {name}", len(models) >= 20, f"exit {listed.code}: {listed.err[-300:]!r}")
                told = plm("doctor", "--quick").out
                no_plugin = damage and damage[0] == "entry_points.txt"  # without entry points it is none
                named = "broken" in told or no_plugin
                drill.expect(f"doctor, {name}", named and not RAW.search(told.replace("\t", "")), told)
                plugins = json.loads(plm("doctor", "--quick", "--json").out)["plugins"]
                drill.expect(f"doctor --json, {name}", len(plugins) > 3, f"{len(plugins)} plug-ins")
                drill.expect(f"help, {name}", "doctor" in plm("--help").out, "no help")
                drill.expect(f"timm, {name}", timm.is_model("hiera_micro_motions"), "timm has lost a model")
                drill.expect(f"look-up, {name}", registry().get(Model, "hiera_micro_motions"), "no look-up")
        except Exception as e:
            drill.expect(name, False, f"bare {type(e).__name__}: {str(e)[:200]!r}")
