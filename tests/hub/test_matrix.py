"""The composition matrix: no cell may be an error, and its verdicts are earned."""

import pytest

from plm_core.blocks import checking, views
from plm_core.hookspecs import BlockAdapter
from plm_core.packing import operators
from plm_core.registry import registry
from plm_core.tools import matrix
from plm_core.tools.matrix import compute, fold, with_notes

TRANSFORM = """
    import torch
    from plm_core.blocks import view
    from plm_core.errors import NotSupported
    from plm_core.hookspecs import Merger, Scorer, Transform, hookimpl

    @hookimpl
    def plm_transforms():
        return [
            Transform(name="halve", apply="acme:halve", remove="acme:restore"),
            Transform(name="forgetful", apply="acme:halve", remove="acme:forget"),
            Transform(name="quits", apply="acme:quit", remove="acme:forget"),
            Transform(name="half-refused", apply="acme:halve_and_refuse", remove="acme:forget"),
            Transform(name="global-only", apply="acme:refuse_local", remove="acme:forget"),
            Transform(name="jealous", apply="acme:refuse_halved", remove="acme:forget"),
            Transform(name="shift", apply="acme:shift", remove="acme:unshift"),
        ]

    @hookimpl
    def plm_mergers():
        return [Merger(name="first", merge="acme:first"), Merger(name="clash", merge="acme:clash")]

    @hookimpl
    def plm_scorers():
        return [Scorer(name="spread", score="acme:spread"), Scorer(name="nan", score="acme:nan")]

    def halve(model):
        model.halved = [b.block.register_forward_hook(lambda m, a, out: out / 2) for b in view(model).blocks]

    def restore(model):
        for hook in model.halved:
            hook.remove()
        del model.halved

    def forget(model):
        pass

    def refuse_local(model):
        if any(b.local for b in view(model).blocks):
            raise NotSupported("attention is local")

    def refuse_halved(model):
        if hasattr(model, "halved"):
            raise NotSupported("it was halved")

    def shift(model):
        step = lambda m, a, out: out + torch.arange(out.shape[-1])
        model.shifted = [b.block.register_forward_hook(step) for b in view(model).blocks]

    def unshift(model):
        for hook in model.shifted:
            hook.remove()

    def quit(model):
        raise SystemExit(1)

    def halve_and_refuse(model):
        halve(model)
        raise NotSupported("too late")

    def first(models, batches):
        return models[0]

    def clash(models, batches):
        raise ZeroDivisionError("no")

    def spread(features, labels):
        return features.std()

    def nan(features, labels):
        return float("nan")
"""


@pytest.fixture(scope="module")
def installed():
    rows = {row["family"]: row for row in compute()}
    if rows["open_clip-vit"]["blocks"] == "not installed":  # the one library that the test group does not install
        del rows["open_clip-vit"]
    return rows


def test_no_installed_combination_is_broken(installed):
    assert installed.keys() >= {"hiera", "timm-vit"}
    assert not [cell for row in installed.values() for cell in row.values() if str(cell).startswith("ERROR")]


def test_scorers_work_on_every_family(installed):
    """An embedding needs no view of blocks, so the windowed families have one too."""
    assert {family for family, row in installed.items() if str(row["blocks"]).startswith("no: ")} == {
        f"{library}-swin" for library in ("timm", "torchvision", "transformers")
    } | {"timm-hiera", "transformers-hiera"}
    cells = {(family, column): cell for family, row in installed.items() for column, cell in row.items()}
    scored = {key: cell for key, cell in cells.items() if key[1].startswith("scorer ")}
    assert len(scored) >= len(installed) >= 20
    assert set(scored.values()) == {"yes"}, {key: cell for key, cell in scored.items() if cell != "yes"}


@pytest.fixture
def rows(plm_registry, monkeypatch):
    package = {"name": "acme", "modules": {"acme.py": TRANSFORM}, "entry_points": {"acme": "acme"}}
    assert plm_registry(package).statuses[1].healthy
    adapters = [a for a in registry().declared(BlockAdapter) if a.name in ("hiera", "timm-vit")]
    monkeypatch.setattr(matrix.registry(), "declared", lambda kind: adapters)
    return {row["family"]: row for row in compute()}


def test_verdicts_are_earned(rows):
    for family in ("hiera", "timm-vit"):
        row = rows[family]
        assert row["transform halve"] == row["merger first"] == row["scorer spread"] == "yes"
        assert row["transform forgetful"].startswith(
            "ERROR: RuntimeError: after remove() the model answers differently"
        )
        assert row["merger clash"].startswith("ERROR: ZeroDivisionError")
        assert row["scorer nan"] == "ERROR: RuntimeError: score is nan"
        assert row["transform quits"].startswith("ERROR: SystemExit")
        assert row["transform half-refused"].startswith("ERROR: RuntimeError: after it was refused the model answers")
    assert rows["hiera"]["transform global-only"] == "no: attention is local"
    assert rows["timm-vit"]["transform global-only"] == "yes"


def test_pairs_of_transforms_are_tried_in_both_orders(rows):
    row = rows["timm-vit"]
    assert row["transform jealous"] == row["transform shift"] == row["transforms jealous + shift"] == "yes"
    assert row["transforms halve + shift"] == "yes, and the order matters"
    assert row["transforms halve + jealous"] == "no: after halve: it was halved"
    assert row["transforms forgetful + halve"] == row["transform forgetful"]
    assert rows["hiera"]["transforms global-only + halve"] == "no: attention is local"


@pytest.mark.skipif(bool(operators.missing()), reason=operators.missing())
def test_packed_works_on_every_family_and_with_token_merging_wherever_that_does(installed):
    assert {row["transform packed"] for row in installed.values()} == {"yes"}
    assert all(row["transforms packed + tome"] == row["transform tome"] for row in installed.values())
    assert sum(row["transforms packed + tome"] == "yes" for row in installed.values()) >= 14


def test_families_are_described_by_their_views(installed):
    assert installed["hiera"]["local"] == 2
    assert installed["timm-vit"]["prefix tokens"] == 1


def test_reasons_are_notes_below_the_table():
    rows = [
        {"family": "a: b", "blocks": 2, "transform t": "no: why: so", "transform u": "not installed: x"},
        {"family": "c", "blocks": "no: why: so", "transform t": "yes", "transform u": "ERROR: E: broken"},
    ]
    assert with_notes(rows) == (
        [
            {"family": "a: b", "blocks": 2, "transform t": "no [1]", "transform u": "not installed [2]"},
            {"family": "c", "blocks": "no [1]", "transform t": "yes", "transform u": "ERROR [3]"},
        ],
        [
            {"note": "[1]", "reason": "why: so"},
            {"note": "[2]", "reason": "x"},
            {"note": "[3]", "reason": "E: broken"},
        ],
    )


def test_no_transform_works_on_blocks_that_the_adapter_shows_wrongly(plm_registry, monkeypatch):
    plm_registry({"name": "acme", "modules": {"acme.py": TRANSFORM}, "entry_points": {"acme": "acme"}})
    [adapter] = [a for a in registry().declared(BlockAdapter) if a.name == "timm-vit"]
    monkeypatch.setattr(matrix.registry(), "declared", lambda kind: [adapter])
    run_block = views.run_block
    monkeypatch.setattr(checking, "run_block", lambda *args, **kwargs: run_block(*args, **kwargs) + 1)
    [row] = compute()
    assert row["blocks"].startswith("ERROR: AssertionError: blocks.0 from its pieces and its own forward differ")
    assert row["transform halve"] == row["merger first"] == row["blocks"]
    assert row["scorer spread"] == "yes"


def test_scorers_share_a_column_in_the_table():
    row = {"family": "vit", "scorer a": "yes", "scorer b": "no: why", "scorer c": "yes", "transform t": "yes"}
    assert fold([row], "scorer") == [{"family": "vit", "transform t": "yes", "3 scorers": "yes; b no: why"}]
    assert fold([row], "merger") == [row]
    assert fold([], "scorer") == []
