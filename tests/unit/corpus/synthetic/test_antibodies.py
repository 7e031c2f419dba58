"""Clonal families: reading, grouping against brute force and real families, and documents."""

import collections
import gzip
import hashlib
import itertools
import json

import numpy as np
import pytest

from tokenbounds.certificates.evaluate import metrics
from tokenbounds.config.load import parse_config
from tokenbounds.config.schema import Antibodies, Bounds, Source, slice_of
from tokenbounds.corpus.synthetic.antibodies import (
    SEPARATOR,
    START,
    family_document,
    read_unit_metadata,
    single_linkage,
    write_families,
)
from tokenbounds.corpus.synthetic.antibody_repertoire import AMINO_ACIDS
from tokenbounds.corpus.tokenizers import listed_tokenizer
from tokenbounds.errors import InputError

HEADER = "productive,v_call,j_call,sequence_alignment_aa,junction_aa"
METADATA = {"Species": "human", "Chain": "Heavy", "Subject": "A", "Author": "X", "Run": "R1"}


def write_unit(path, rows, metadata=METADATA, header=HEADER):
    """Write a data unit of OAS: one cell of JSON, the header, rows."""
    cell = '"' + json.dumps(metadata).replace('"', '""') + '"'
    data = "\n".join([cell, header, *(",".join(f'"{cell}"' for cell in row) for row in rows)]) + "\n"
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(data.encode()))
    else:
        path.write_text(data)


def row(sequence, junction="CARDYW", v_call="IGHV1-2*01", j_call="IGHJ4*02", productive="T"):
    return productive, v_call, j_call, sequence, junction


def documents(tmp_path, seed=1, **options):
    """Write documents; return their families as sorted members, and the sidecar."""
    path, sidecar = tmp_path / "families.jsonl", tmp_path / "families.json"
    write_families(path, sidecar, options, seed, "corpus")
    texts = [json.loads(line)["text"] for line in path.read_text().splitlines()]
    assert all(text.startswith(START) for text in texts)
    return [sorted(text.removeprefix(START).split(SEPARATOR)) for text in texts], json.loads(
        sidecar.read_text()
    )


# ---------------------------------------------------------------- grouping


def brute_force(junctions, most):
    """Groups by merging any two sequences within the distance until nothing changes."""
    groups = [{i} for i in range(len(junctions))]
    near = [
        (i, j)
        for i, j in itertools.combinations(range(len(junctions)), 2)
        if sum(a != b for a, b in zip(junctions[i], junctions[j], strict=True)) <= most
    ]
    for i, j in near:
        a, b = (next(group for group in groups if place in group) for place in (i, j))
        if a is not b:
            groups.remove(b)
            a |= b
    return {frozenset(group) for group in groups}


@pytest.mark.parametrize(
    "length, fraction, most",
    [(5, 0.2, 1), (9, 0.2, 1), (10, 0.3, 3), (15, 0.2, 3), (6, 0.0, 0), (35, 0.2, 7)],
)
def test_single_linkage_is_brute_force(length, fraction, most):
    rng = np.random.default_rng(length)
    letters = np.array(list("ACDE"))
    junctions = [
        "".join(letters[rng.integers(0, 2 + length // 3 if length < 7 else 4, length) % 4]) for _ in range(60)
    ]
    centres = rng.integers(0, 60, 60)
    for i, centre in enumerate(centres):  # near copies, so that there are chains
        word = list(junctions[centre])
        for place in rng.integers(0, length, rng.integers(0, 2 * most + 1)):
            word[place] = letters[rng.integers(4)]
        junctions.append("".join(word)) if i % 2 else None
    numbers = single_linkage(junctions, fraction)
    groups = collections.defaultdict(set)
    for place, group in enumerate(numbers.tolist()):
        groups[group].add(place)
    assert set(map(frozenset, groups.values())) == brute_force(junctions, most)
    firsts = [min(groups[group]) for group in range(len(groups))]
    assert firsts == sorted(firsts)


def test_single_linkage_follows_chains():
    chain = ["AAAAA", "AAAAC", "AAACC", "AACCC", "DDDDD"]
    assert single_linkage(chain, 0.2).tolist() == [0, 0, 0, 0, 1]
    assert single_linkage(chain, 0.19).tolist() == [0, 1, 2, 3, 4]


def test_thousands_in_a_group():
    rng = np.random.default_rng(0)
    junctions = ["".join(word) for word in rng.choice(list(AMINO_ACIDS), (4000, 15))]
    assert len(set(single_linkage(junctions + junctions[::-1], 0.2))) == 4000


# ---------------------------------------------------------------- units


def test_unit_families(tmp_path):
    near = [
        row("AAA"),
        row("AAC", "CARDFW"),
        row("AAA", "CARDYW"),
        row("AAD", "CARDYW", "IGHV1-2*07,IGHV1-3*01"),
    ]
    apart = [
        row("CCC", "CAAAAW"),  # far junction
        row("CCD", v_call="IGHV1-3*01"),
        row("CCE", j_call="IGHJ5*01"),
        row("CCF", "CARDDYW"),  # longer junction
        row("XAA"),
        row("", ""),
        row("CCG", productive="F"),
    ]
    write_unit(tmp_path / "b.csv.gz", near[:2] + apart)
    write_unit(tmp_path / "a.csv", near[2:])
    write_unit(tmp_path / "other.csv", [row("GGG")], METADATA | {"Subject": "B"})
    write_unit(tmp_path / "study.csv", [row("GGH")], METADATA | {"Author": "Y"})
    write_unit(tmp_path / "unknown1.csv", [row("GGK")], METADATA | {"Subject": "no"})
    write_unit(tmp_path / "unknown2.csv", [row("GGL")], METADATA | {"Subject": "no", "Run": "R2"})
    write_unit(tmp_path / "light.csv", [row("GGM")], METADATA | {"Chain": "Light"})
    write_unit(tmp_path / "mouse.csv", [row("GGN")], METADATA | {"Species": "mouse_C57BL/6"})

    units = [str(tmp_path / "*.csv*")]
    families, _ = documents(tmp_path / "out", units=units, min_family=2)
    assert families == [["AAA", "AAC", "AAD"]]  # the same sequence twice is one member
    families, sidecar = documents(tmp_path / "out", units=units, min_family=1)
    alone = ["CCC", "CCD", "CCE", "CCF", "GGG", "GGH", "GGK", "GGL"]
    assert sorted(families) == [["AAA", "AAC", "AAD"], *([name] for name in alone)]
    counts = sidecar["counts"]
    assert (counts["units"], counts["units_of_others"], counts["sequences"]) == (6, 2, 15)
    assert (counts["not_productive"], counts["other_letters"], counts["families"], counts["members"]) == (
        1,
        2,
        9,
        11,
    )
    assert len(sidecar["inputs"]) == 8 and sidecar["synthetic"] is False
    # The order of globs changes nothing.
    swapped = [str(tmp_path / name) for name in ("*.csv.gz", "*.csv")]
    assert documents(tmp_path / "out2", units=swapped, min_family=1)[0] == families


@pytest.mark.parametrize(
    "data, expected",
    [
        (HEADER.encode() + b"\n", "line 1 is 'productive,v_call"),
        (b'"[1]"\n' + HEADER.encode() + b"\n", "line 1 is"),
        (
            b'"{""Species"": ""human""}"\n' + HEADER.encode() + b"\n",
            "no 'Chain' in the metadata of line 1; found Species",
        ),
        (b"", "line 1 is ''"),
        (b"\xff\xfe\n", "cannot be read"),
    ],
)
def test_malformed_metadata(tmp_path, data, expected):
    (tmp_path / "u.csv").write_bytes(data)
    with pytest.raises(InputError, match=expected) as error:
        read_unit_metadata(tmp_path / "u.csv")
    assert "u.csv" in str(error.value) and "\n" not in str(error.value)


def test_malformed_units(tmp_path):
    def refused(expected, **options):
        with pytest.raises(InputError, match=expected) as error:
            documents(tmp_path / "out", **{"units": [str(tmp_path / "u.csv*")], "min_family": 1} | options)
        assert "\n" not in str(error.value)
        assert not (tmp_path / "out/families.jsonl").exists()

    refused(r"source.antibodies.units: .*u.csv\* matches no file")
    write_unit(tmp_path / "u.csv", [row("AAA")], header=HEADER.replace("v_call", "v"))
    refused("u.csv: no column 'v_call'; found productive, v, j_call")
    write_unit(tmp_path / "u.csv", [row("AAA"), ("T", "IGHV1")])
    refused("u.csv: cannot be read .*2")
    write_unit(tmp_path / "u.csv", [row("AAA")])
    refused("no family of min_family 3 members; the largest of 1 is smaller", min_family=3)
    refused("none of 1 units is human Light; expected some", chain="Light")
    refused("its first member needs 5 tokens; max_tokens is 4", max_tokens=4)
    (tmp_path / "u.csv").unlink()
    write_unit(tmp_path / "u.csv.gz", [row(AMINO_ACIDS * 3, "CAR" + c) for c in AMINO_ACIDS])
    whole = (tmp_path / "u.csv.gz").read_bytes()
    for size in (10, len(whole) // 2, len(whole) - 4):
        (tmp_path / "u.csv.gz").write_bytes(whole[:size])
        refused("u.csv.gz: cannot be read")
    (tmp_path / "u.csv.gz").write_bytes(b"no gzip")
    refused("u.csv.gz: cannot be read")


def test_real_units(tmp_path, shared):
    """Compare the groups of two real units with the reference's families of that subject.

    The reference was made from more of the subject's units, so that each group lies within one family."""
    folder = shared / "data/oas"
    families, sidecar = documents(
        tmp_path, units=[str(folder / "units/*.csv.gz")], min_family=10, max_tokens=10**6
    )
    assert sidecar["counts"]["sequences"] == 683 + 2521
    reference = {}
    for path in (folder / "derived_clonal_families/families").glob("*.csv"):
        _, *lines = path.read_text().splitlines()
        reference[path.name] = {line.split(",")[0] for line in lines}
    names = [[name for name, members in reference.items() if members >= set(family)] for family in families]
    assert len(families) == 7 and all(len(name) == 1 for name in names)
    assert len({name[0] for name in names}) == 7


# ---------------------------------------------------------------- files of families


def test_families_of_files(tmp_path):
    (tmp_path / "a.csv").write_text("sequence_alignment_aa,run\nAAA,1\nAAC,1\nAAA,2\nAXA,2\n")
    (tmp_path / "b.csv").write_text("clone_id,sequence_alignment_aa\n1,CCC\n2,DDD\n1,CCD\n2,DDE\n3,EEE\n")
    families, sidecar = documents(tmp_path / "out", families=[str(tmp_path / "*.csv")], min_family=2)
    assert families == [["AAA", "AAC"], ["CCC", "CCD"], ["DDD", "DDE"]]
    assert sidecar["counts"]["smaller_families"] == 1 and sidecar["counts"]["other_letters"] == 1
    (tmp_path / "b.csv").write_text("clone_id,sequence_alignment_aa\n1,CCC\n,DDD\n")
    with pytest.raises(
        InputError, match=r"b\.csv: row 1 has an empty clone_id; expected the id of its family"
    ):
        documents(tmp_path / "out", families=[str(tmp_path / "*.csv")], min_family=1)


def test_real_families(tmp_path, shared):
    folder = shared / "data/oas/derived_clonal_families"
    families, sidecar = documents(tmp_path, families=[str(folder / "families/*.csv")], max_tokens=10**6)
    sizes = [
        line.split(",")[1]
        for name in ("train", "val")
        for line in (folder / f"heavy_{name}_size.csv").read_text().splitlines()[1:]
    ]
    assert sorted(map(len, families)) == sorted(int(size) for size in sizes if int(size) >= 25)
    assert sidecar["counts"]["smaller_families"] == len(sizes) - len(families)


# ---------------------------------------------------------------- documents


def test_document_holds_whole_members():
    members = ["A" * 10, "C" * 10, "D" * 10]
    for most, expected in ((12, 1), (22, 1), (23, 2), (33, 2), (34, 3), (1000, 3)):
        text, kept = family_document(members, most, np.random.default_rng(0), "f")
        parts = text.removeprefix(START).split(SEPARATOR)
        assert kept == expected == len(parts) and set(parts) <= set(members)
        assert 1 + kept * 10 + kept - 1 + 1 <= most  # START, letters, separators, end token
    with pytest.raises(InputError, match="f: its first member needs 12 tokens; max_tokens is 11"):
        family_document(members, 11, np.random.default_rng(0), "f")


def test_documents_are_tokenized_as_the_vocabulary_lists(shared):
    vocabulary = (shared / "data/oas/vocab.txt").read_text().splitlines()
    text, _ = family_document(["ACDY", "WY"], 100, np.random.default_rng(1), "f")
    ids = listed_tokenizer(vocabulary).encode(text).ids
    assert [vocabulary[token] for token in ids] in (
        ["[CLS]", *"ACDY", "[ClSep]", *"WY"],
        ["[CLS]", *"WY", "[ClSep]", *"ACDY"],
    )
    assert len(vocabulary) == 29 and vocabulary.index("[SEP]") == 3


def test_documents_are_a_function_of_the_seed(tmp_path):
    def text(seed, name="a"):
        write_families(tmp_path / name, tmp_path / "s.json", {"synthetic": {"families": 5}}, seed, "corpus")
        return (tmp_path / name).read_bytes()

    first = text(1)
    assert text(1, "b") == first
    assert text(2) != first
    # Pinned: another machine or version must make the same documents.
    assert hashlib.sha256(first).hexdigest()[:16] == "a67e62f2f134ed65"


# ---------------------------------------------------------------- a small vocabulary


def test_top_k_of_the_whole_vocabulary_is_left_out():
    """With 29 tokens no prediction can miss the best 29, 50 or 100: there is nothing to bound."""
    rng = np.random.default_rng(0)
    records = {
        "log2_q": np.log2(rng.random(200)),
        "rank": rng.integers(0, 29, 200),
        "entropy_bits": rng.random(200),
    }
    config = {"delta": 0.05, "m": 10**6, "n": 200, "choices_bits": {}, "epsilon_nats": 0.0}
    config |= {"entropy_epsilon_bits": 0.0}
    settings = slice_of(Bounds(top_k=[1, 28, 29, 50, 100]))
    assert list(metrics(records, 1000, vocab_size=29, settings=settings, **config)) == [
        "bpd",
        "top1",
        "top28",
    ]
    assert list(metrics(records, 1000, vocab_size=300, settings=settings, **config)) == [
        "bpd",
        "top1",
        "top28",
        "top29",
        "top50",
        "top100",
    ]


# ---------------------------------------------------------------- configuration


def test_source_section():
    source = Source(antibodies={"synthetic": {"families": 3}})
    assert source.made == "families.jsonl"
    assert Source.model_validate(slice_of(source)) == source
    for wrong in ({}, {"units": ["a"], "families": ["b"]}):
        with pytest.raises(ValueError, match="exactly one of units, families, synthetic is needed"):
            Antibodies(**wrong)


def test_validation_loss_needs_trained_models():
    config = {
        "run": "r",
        "corpora": {"c": {"source": {"files": ["a.txt"]}, "tokenizer": {"file": "t.json"}}},
        "models": {"p": {"family": "pretrained", "corpus": "c", "folder": "f"}},
        "codecs": {"l": {"kind": "levels"}},
        "tables": {
            "t": {
                "validation_loss": True,
                "rows": [{"label": "P", "model": "p", "codec": "l", "corpus": "c"}],
            }
        },
    }
    with pytest.raises(
        InputError, match=r"tables.t.rows\[0\].model: 'p' is not trained here; expected trained models"
    ):
        parse_config(config)
    training = {"steps": 1, "warmup": 0}
    shape = {"layers": 1, "heads": 1, "width": 2}
    config["models"]["p"] = {"family": "gpt", "corpus": "c", "architecture": shape, "training": training}
    with pytest.raises(InputError, match=r"tables.t.rows\[0\].model: corpora.c has no split.val"):
        parse_config(config)
    config["corpora"]["c"]["split"] = {"val": 0.1}
    assert parse_config(config).tables["t"].validation_loss
    config["tables"]["t"]["samples"] = {}
    with pytest.raises(InputError, match=r"`validation_loss` is a column of tables without `samples`"):
        parse_config(config)
