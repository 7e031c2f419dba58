"""The synthetic repertoire: productive sequences, alike within a family, mutated at the right places."""

import numpy as np
import pytest

from tokenbounds.corpus.synthetic.antibody_repertoire import (
    AMINO_ACIDS,
    clonal_family,
    make_germline,
    recombine,
    synthetic_families,
)
from tokenbounds.randomness import generator


@pytest.fixture(scope="module")
def repertoire():
    return list(synthetic_families(200, 25, 7))


def test_synthetic_sequences(repertoire):
    sizes = [len(members) for members in repertoire]
    assert min(sizes) >= 25 and max(sizes) <= 500 and max(sizes) > 60
    assert all(len(set(members)) == len(members) for members in repertoire)
    for members in repertoire:
        assert len({len(member) for member in members}) == 1 and 112 <= len(members[0]) <= 125
        for member in members:
            assert not member.strip(AMINO_ACIDS)
            assert member[21] == "C" and member[35] == "W" and member[95] == "C" and member[-10] == "W"
    assert synthetic_prefix(50) == repertoire[:50]  # more families leave the first as they are


def synthetic_prefix(families):
    return list(synthetic_families(families, 25, 7))


def test_members_of_a_family_are_alike(repertoire):
    def distance(one, other):
        return np.mean([a != b for a, b in zip(one, other, strict=False)])

    within = np.mean([distance(members[0], members[i]) for members in repertoire for i in (1, 10, 20)])
    between = np.mean([distance(repertoire[i][0], repertoire[i + 1][0]) for i in range(199)])
    assert 0.01 < within < 0.2 < between


def test_mutations_are_where_they_should_be():
    """Measure mutations per region on many children of one ancestor.

    CDRs mutate more than frameworks, hot spots most, conserved letters never."""
    germline = make_germline(3)
    rng = generator(0, "test")
    frames, cdrs, hots = [], [], []
    for _ in range(20):
        state = rng.bit_generator.state
        ancestor, rates = recombine(germline, rng)
        rng.bit_generator.state = state
        members = clonal_family(germline, rng, 60)
        differs = np.mean(
            [[AMINO_ACIDS.index(letter) for letter in member] != ancestor for member in members], axis=0
        )
        assert (differs[rates == 0] == 0).all()
        for rates_seen, low, high in ((frames, 0, 0.005), (cdrs, 0.005, 0.05), (hots, 0.05, 1)):
            rates_seen.extend(differs[(rates > low) & (rates <= high)])
    assert np.mean(frames) * 3 < np.mean(cdrs) < np.mean(hots) / 2


def test_substitutes_change_the_letter():
    substitutes = make_germline(0).substitutes
    assert (substitutes != np.arange(20)[:, None]).all()
