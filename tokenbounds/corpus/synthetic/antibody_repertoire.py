"""A synthetic antibody repertoire: clonal families of made-up heavy chains, for runs without a download.

Nothing is copied from a database. A seeded generator makes up germline-like segments with framework (FR) and
complementarity-determining (CDR) regions; a family's ancestor is recombined from a V, a D and a J segment
with trimmed ends and random letters between them; its members are the nodes of a tree along whose edges
letters mutate, in the CDRs more often than in the frameworks and at hot spots most often::

    region   segment                                      letters   conserved
    FR1      V                                            25        C at 21
    CDR1     V                                            8
    FR2      V                                            17        W at 35
    CDR2     V                                            8
    FR3      V                                            38        C at 95
    CDR3     end of V, random, D, random, beginning of J  6 to 19
    FR4      J                                            10        W, its first

Every sequence is productive: 20 amino acids, no gap, the conserved cysteines and tryptophans in their places.
Results on these sequences say nothing about real ones."""

import dataclasses

import numpy as np

from tokenbounds.randomness import generator

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
_LETTERS = np.frombuffer(AMINO_ACIDS.encode(), np.uint8)
_CYSTEINE, _TRYPTOPHAN = AMINO_ACIDS.index("C"), AMINO_ACIDS.index("W")
# Lengths of FR1, CDR1, FR2, CDR2, FR3 and of the V segment's part of CDR3; conserved letters by place in the
# segment.
_V_REGIONS = (("framework", 25), ("cdr", 8), ("framework", 17), ("cdr", 8), ("framework", 38), ("cdr", 2))
_V_CONSERVED = {21: _CYSTEINE, 35: _TRYPTOPHAN, 95: _CYSTEINE}
_J_LENGTH, _J_TRYPTOPHAN = 13, 3  # the letters before the tryptophan belong to CDR3
_CLANS, _V_SEGMENTS, _D_SEGMENTS, _J_SEGMENTS = 5, 40, 20, 6
_CLAN_CHANGES = {"framework": 0.12, "cdr": 0.5}  # probability that a V segment's letter is not its clan's
_RATES = {"framework": 0.004, "cdr": 0.03}  # mutations per letter and edge
_HOT_SPOTS, _HOT_RATE = 0.25, 0.12  # fraction of the CDR's letters, and their rate
_SUBSTITUTES = 64  # equally likely outcomes of a letter's mutation
_LARGEST_FAMILY = 500


@dataclasses.dataclass(frozen=True)
class Germline:
    """Made-up segments: letters (indices into `AMINO_ACIDS`) and, of V segments, mutation rates per letter.

    Attributes
    ----------
    v : list of (ndarray of int, ndarray of float), each of shape (98,)
    d, j : list of ndarray of int
    background : ndarray of float, shape (20,)
        Frequencies of random letters.
    substitutes : ndarray of int, shape (20, 64)
        Substitutes of each letter in a mutation, each column equally likely; never the letter itself.
    """

    v: list
    d: list
    j: list
    background: np.ndarray
    substitutes: np.ndarray


def make_germline(seed):
    """Make the germline of a repertoire: a function of `seed` alone (stream ``("repertoire", "germline")``).

    Returns
    -------
    Germline
    """
    rng = generator(seed, "repertoire", "germline")
    letters = len(AMINO_ACIDS)
    background = rng.dirichlet(np.full(letters, 4.0))

    def drawn(size):
        return rng.choice(letters, size, p=background)

    regions = np.concatenate([np.full(length, kind == "cdr") for kind, length in _V_REGIONS])
    changes = np.where(regions, _CLAN_CHANGES["cdr"], _CLAN_CHANGES["framework"])
    clans = [drawn(regions.size) for _ in range(_CLANS)]
    v = []
    for number in range(_V_SEGMENTS):
        segment = np.where(rng.random(regions.size) < changes, drawn(regions.size), clans[number % _CLANS])
        segment[list(_V_CONSERVED)] = list(_V_CONSERVED.values())
        v.append((segment, _mutation_rates(rng, regions)))
    d = [drawn(rng.integers(6, 9)) for _ in range(_D_SEGMENTS)]
    tail, j = drawn(_J_LENGTH), []
    for _ in range(_J_SEGMENTS):
        segment = np.where(np.arange(_J_LENGTH) < _J_TRYPTOPHAN, drawn(_J_LENGTH), tail)
        segment[_J_TRYPTOPHAN] = _TRYPTOPHAN
        j.append(segment)
    # few substitutes take most of a letter's mutations
    likely = rng.dirichlet(np.full(letters, 0.3), letters) + 1e-3
    np.fill_diagonal(likely, 0)
    substitutes = np.stack([rng.choice(letters, _SUBSTITUTES, p=row / row.sum()) for row in likely])
    return Germline(v, d, j, background, substitutes)


def _mutation_rates(rng, cdr):
    hot = cdr & (rng.random(cdr.size) < _HOT_SPOTS)
    return np.where(hot, _HOT_RATE, np.where(cdr, _RATES["cdr"], _RATES["framework"]))


def recombine(germline, rng):
    """Recombine a family's ancestor: V, random letters, D, random letters, J, with trimmed ends.

    Returns
    -------
    letters : ndarray of int, shape (112..125,)
    rates : ndarray of float, same shape
        Mutations per letter and edge of the family's tree; 0 for conserved letters.
    """
    v, v_rates = germline.v[rng.integers(len(germline.v))]
    d = germline.d[rng.integers(len(germline.d))]
    j = germline.j[rng.integers(len(germline.j))]
    v_trim, d_left, d_right, j_trim = rng.integers(0, [2, 2, 2, 3])
    first, second = (
        rng.choice(len(AMINO_ACIDS), rng.integers(0, 4), p=germline.background) for _ in range(2)
    )
    v, v_rates = v[: v.size - v_trim], v_rates[: v.size - v_trim].copy()
    v_rates[list(_V_CONSERVED)] = 0
    middle = np.concatenate([first, d[d_left : d.size - d_right], second, j[j_trim:_J_TRYPTOPHAN]])
    end = j[_J_TRYPTOPHAN:]
    end_rates = np.full(end.size, _RATES["framework"])
    end_rates[0] = 0
    rates = np.concatenate([v_rates, _mutation_rates(rng, np.full(middle.size, True)), end_rates])
    return np.concatenate([v, middle, end]), rates


def clonal_family(germline, rng, members):
    """Make the different sequences of a family: the nodes of a random recursive tree below its ancestor.

    The ancestor itself is not one of them.

    Parameters
    ----------
    germline : Germline
    rng : numpy.random.Generator
    members : int
        Number of sequences.

    Returns
    -------
    list of str
        In the order in which they branched off; every edge has at least one mutation, none lengthens or
        shortens a sequence.
    """
    ancestor, rates = recombine(germline, rng)
    size, distinct = members, {}
    while len(distinct) < members:  # equal nodes left too few: draw the tree again, larger
        size += size // 8 + 4
        distinct = dict.fromkeys(_tree(germline, rng, ancestor, rates, size))
    return list(distinct)[:members]


def _tree(germline, rng, ancestor, rates, members):
    parents = (rng.random(members) * np.arange(1, members + 1)).astype(int)  # of node i + 1: one of 0..i
    mutates = rng.random((members, ancestor.size)) < rates
    forced = rng.choice(ancestor.size, members, p=rates / rates.sum())
    idle = ~mutates.any(axis=1)
    mutates[idle, forced[idle]] = True
    picks = rng.integers(0, _SUBSTITUTES, mutates.shape)
    nodes = np.empty((members + 1, ancestor.size), np.int64)
    nodes[0] = ancestor
    for node, (parent, places, pick) in enumerate(zip(parents, mutates, picks, strict=True), start=1):
        nodes[node] = np.where(places, germline.substitutes[nodes[parent], pick], nodes[parent])
    return [bytes(row).decode() for row in _LETTERS[nodes[1:]]]


def synthetic_families(families, least_members, seed):
    """Generate the clonal families of a synthetic repertoire.

    Each has its own random stream, so that asking for more families does not change the first ones.

    Parameters
    ----------
    families : int
        Number of families.
    least_members : int
        Least number of members. Sizes have a Pareto tail of exponent 2, up to 500 members or `least_members`
        if that is more.
    seed : int

    Yields
    ------
    list of str
    """
    germline = make_germline(seed)
    for number in range(families):
        rng = generator(seed, "repertoire", number)
        size = int(least_members / np.sqrt(1 - rng.random()))
        yield clonal_family(germline, rng, min(size, max(least_members, _LARGEST_FAMILY)))
