"""The stops of the tour, with the shipped micro model."""

import pytest

from pe_encoder import tour as stops
from plm_core.tools.tour import Tour


@pytest.mark.parametrize("name", ["zero_shot", "text_map", "features"])
def test_a_stop_has_a_picture_and_a_fact(name):
    tour = Tour()
    getattr(stops, name)(tour)
    assert "".join(tour.parts).count("data:image/png;base64,") == 1
    assert len(tour.facts) == 1


def test_texts_choose_well_and_are_found_in_the_picture():
    tour = Tour()
    stops.zero_shot(tour)
    stops.text_map(tour)
    right, of = next(iter(tour.facts.values())).removesuffix(" right").split(" of ")
    assert int(right) >= int(of) - 1
    share = tour.facts["pixels of two objects that the right text gets"]
    assert int(share.removesuffix("%")) > 70  # half of them by chance
