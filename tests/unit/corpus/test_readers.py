"""Documents from files: counted, read in order, and one clear line for a file that cannot be read."""

import gzip
import hashlib
import json
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from support.documents import texts, write

from tokenbounds.config.schema import Source
from tokenbounds.corpus import readers
from tokenbounds.corpus.readers import count_all, count_documents, docstrings, read_documents, read_range
from tokenbounds.corpus.sources import SourceFile, list_files
from tokenbounds.errors import InputError


def zstd(data):
    # Two frames: a reader that stops at the first one's end would lose half the documents without a word.
    half = len(data) // 2
    return zstandard.compress(data[:half]) + zstandard.compress(data[half:])


PACK = {"": lambda data: data, ".gz": gzip.compress, ".zst": zstd}


# ---------------------------------------------------------------- reading and counting

# Any text that UTF-8 can hold, line ends of all kinds and NUL among it.
TEXT = st.text(st.characters(codec="utf-8"), max_size=30)


@settings(max_examples=40, deadline=None)
@given(
    documents=st.lists(TEXT, min_size=1, max_size=12),
    blanks=st.lists(st.sampled_from(["", " ", "\t"]), min_size=1, max_size=3),
    data=st.data(),
)
def test_every_format_gives_the_documents_back(tmp_path_factory, documents, blanks, data):
    folder = tmp_path_factory.mktemp("formats")
    packed = data.draw(st.sampled_from(sorted(PACK)))
    lines = "".join(
        json.dumps({"n": 1, "body": text}, ensure_ascii=data.draw(st.booleans()))
        + "\n"
        + "\n".join(blanks)
        + "\n"
        for text in documents
    )
    paths = [
        write(folder / f"a.jsonl{packed}", PACK[packed](lines.encode())),
        write(
            folder / f"b.json{packed}",
            PACK[packed](json.dumps([{"body": text} for text in documents]).encode()),
        ),
        write(folder / f"c.json{packed}", PACK[packed](json.dumps(documents).encode())),
    ]
    table = pa.table({"other": range(len(documents)), "body": documents})
    pq.write_table(table, folder / "d.parquet", row_group_size=data.draw(st.integers(1, 5)))
    start = data.draw(st.integers(0, len(documents)))
    stop = data.draw(st.integers(start, len(documents)))
    for path in [*paths, folder / "d.parquet"]:
        assert count_documents(SourceFile(str(path)), "body") == len(documents)
        assert texts(path, "body") == documents
        assert texts(path, "body", start, stop) == documents[start:stop]
    one = write(folder / f"e.txt{packed}", PACK[packed](documents[0].encode()))
    assert texts(one) == documents[:1] and count_documents(SourceFile(str(one))) == 1
    single = write(folder / "f.json", json.dumps({"body": documents[0]}).encode())
    assert texts(single, "body") == documents[:1]


def test_parquet_string_types_and_batches(tmp_path):
    documents = [f"row {number}" for number in range(1000)]
    columns = [pa.array(documents, kind) for kind in (pa.string(), pa.large_string())] + [
        pa.array(documents).dictionary_encode()
    ]
    for number, column in enumerate(columns):
        path = tmp_path / f"{number}.parquet"
        pq.write_table(
            pa.table({"text": column}), path, row_group_size=700
        )  # batches, row groups and ranges end in different places
        assert texts(path, start=250, stop=970) == documents[250:970]


def test_undecodable_bytes_and_lone_surrogates(tmp_path):
    assert texts(write(tmp_path / "a.txt", b"a\xffb\r\n")) == ["a\ufffdb\r\n"]
    # The first is half a pair; the second a whole pair, which JSON joins.
    assert texts(write(tmp_path / "a.jsonl", rb'{"text": "x\ud800y \ud83d\ude00"}')) == [
        "x\ufffdy \U0001f600"
    ]
    path = write(tmp_path / "b.jsonl", b'{"text": "fine"}\n{"text": "\xff"}\n')
    with pytest.raises(InputError, match=f"^{path}:2: not valid JSON"):
        texts(path)


def test_ranges_over_files_number_documents_through(tmp_path, monkeypatch):
    names = ["a.jsonl", "b.txt", "c.jsonl"]
    write(tmp_path / "a.jsonl", b'{"text": "0"}\n\n{"text": "1"}\n')
    write(tmp_path / "b.txt", b"2")
    write(tmp_path / "c.jsonl", b'{"text": "3"}\n{"text": "4"}')
    files = [SourceFile(str(tmp_path / name)) for name in names]
    counted = count_all(files)
    assert [entry.documents for entry in counted] == [2, 1, 2]
    assert [entry.bytes for entry in counted] == [29, 1, 27]
    assert [entry.sha256 for entry in counted] == [
        hashlib.sha256(file.location.read_bytes()).hexdigest() for file in files
    ]
    monkeypatch.setattr(readers, "_POOL_BYTES", 0)
    assert count_all(files, processes=2) == counted
    for start in range(6):
        for stop in range(start, 6):
            joined = list(read_range(counted, "text", start, stop))
            assert [(number, text) for number, _, text in joined] == [
                (number, str(number)) for number in range(start, stop)
            ]
    assert [place for _, place, _ in read_range(counted, "text", 1, 4)] == [
        f"{files[0].path}:3",
        files[1].path,
        f"{files[2].path}:1",
    ]
    with (tmp_path / "a.jsonl").open("ab") as handle:
        handle.write(b'{"text": "x"}\n')
    again = r"count them again \(remove documents\.json\)$"
    with pytest.raises(
        InputError, match=rf"a\.jsonl: 43 bytes, but 29 when its documents were counted; {again}"
    ):
        list(read_range(counted, "text", 0, 1))
    assert len(list(read_range(counted, "text", 2, 5))) == 3  # the other files are as they were
    write(tmp_path / "c.jsonl", b'{"text": "3"}\n{"text": "5"}')
    with pytest.raises(
        InputError, match=rf"c\.jsonl: changed since its documents were counted \(sha256 .*\); {again}"
    ):
        list(read_range(counted, "text", 3, 4))


def test_a_downloaded_file_is_not_hashed_again(tmp_path):
    path = write(tmp_path / "a.txt", b"x")
    assert count_all([SourceFile(str(path), sha256="known")])[0].sha256 == "known"


def test_reading_is_streamed(tmp_path):
    line = json.dumps({"text": "word " * 2000}).encode() + b"\n"
    path = write(tmp_path / "a.jsonl.gz", gzip.compress(line * 4000, 1))  # 40 MB unpacked
    tracemalloc.start()
    assert sum(1 for _ in read_documents(SourceFile(str(path)))) == 4000
    assert count_documents(SourceFile(str(path))) == 4000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e6


# ---------------------------------------------------------------- files that cannot be read

BAD = [
    ("a.jsonl", b'{"text": "x"}\n\n{"text": \n', ":3: not valid JSON"),
    ("a.jsonl", b'{"text": "x"}\n{"text": "y"', ":2: not valid JSON"),
    ("a.jsonl", b'{"text": "x"}\n{"body": "y"}\n', ":2: no field 'text'; found body"),
    ("a.jsonl", b'{"text": 7}\n', ":1: field 'text' is a number, expected a string"),
    ("a.jsonl", b'{"text": null}\n', ":1: field 'text' is null, expected a string"),
    ("a.jsonl", b'["x"]\n', ":1: found a list, expected an object with field 'text'"),
    ("a.jsonl", b"[" * 100_000, ":1: not valid JSON"),
    ("a.json", b'[{"text": "x"}, {"body": 1}]', ": entry 1: no field 'text'; found body"),
    ("a.json", b'["x", 3]', ": entry 1: found a number, expected an object with field 'text'"),
    ("a.json", b'"x"', ": found a string, expected a list of objects or of strings, or one object"),
    ("a.json", b'[{"text": "x"}', ": not valid JSON"),
    ("a.json.gz", gzip.compress(b'[{"text": "x"}]')[:-6], ": cannot be read"),
    ("a.jsonl.gz", b"no gzip", ":1: cannot be read"),
    (
        "a.jsonl.gz",
        gzip.compress(b'{"text": "x"}\n') + gzip.compress(b'{"text": "y"}\n' * 1000)[:-9],
        ":1002: cannot be read",
    ),
    ("a.jsonl.zst", zstandard.compress(b'{"text": "x"}\n' * 1000)[:-4], ": cannot be read"),
    ("a.txt.zst", b"no zstd", ": cannot be read"),
    ("a.parquet", b"no parquet", ": cannot be read"),
]


# Named, because gzip writes the time into the content, and workers of pytest-xdist must agree on the names.
@pytest.mark.parametrize(
    ("name", "content", "reason"), BAD, ids=[f"{name}-{number}" for number, (name, *_) in enumerate(BAD)]
)
def test_bad_files_name_file_and_line(tmp_path, name, content, reason):
    path = write(tmp_path / name, content)
    with pytest.raises(InputError) as error:
        texts(path)
    message = str(error.value)
    assert message.startswith(str(path)) and "\n" not in message
    assert reason in message


def test_bad_parquet_columns(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a", None, "c"], "n": [1, 2, 3]}), path)
    for field, reason in [
        ("body", "no column 'body'; found text, n"),
        ("n", "column 'n' holds int64, expected strings"),
        ("text", "row 1: column 'text' is null"),
    ]:
        with pytest.raises(InputError, match=f"^{path}: {reason}"):
            texts(path, field)
    assert texts(path, start=2) == ["c"]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=f"^{path}: cannot be read"):
        count_documents(SourceFile(str(path)))


SOURCE = '''"""Module.

More."""
import os


def function():
    """Does   it."""

    class Inner:
        """A class inside."""


class Other:
    def method(self):
        """In a method.\\d"""

    async def coroutine(self):
        "One line."


def without():
    return "not a docstring"
'''


def test_docstrings_in_the_order_of_the_file():
    texts = docstrings(SOURCE).split("\n\n")
    assert texts == ["Module.", "More.", "Does   it.", "A class inside.", "In a method.\\d", "One line."]
    assert docstrings("x = 1\n") == docstrings("def broken(:\n") == docstrings("\0") == docstrings("") == ""


def test_a_source_of_docstrings(tmp_path):
    (tmp_path / "a.txt").write_text(SOURCE)
    (tmp_path / "b.txt").write_text("x = 1\n")
    files = count_all(list_files(Source(files=[f"{tmp_path}/*.txt"])))
    assert [text for _, _, text in read_range(files, "text", 0, 2, "docstrings")] == [docstrings(SOURCE), ""]
    assert [text for _, _, text in read_range(files, "text", 0, 2)] == [SOURCE, "x = 1\n"]


# ---------------------------------------------------------------- rows of token ids

END = 2


def id_rows(rows, **more):
    return "".join(json.dumps({"token_ids": row, **more}) + "\n" for row in rows).encode()


def cut(rows):
    """The documents in rows of small ids, by the splitting of a string."""
    documents = "".join(chr(token) for row in rows for token in row).split(chr(END))
    return [
        [ord(token) for token in document] for document in (documents if documents[-1] else documents[:-1])
    ]


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=6), max_size=8), data=st.data())
def test_rows_of_token_ids_are_cut_at_the_end_of_text(tmp_path_factory, rows, data):
    documents = cut(rows)
    assert sum(map(len, rows)) == sum(map(len, documents)) + sum(row.count(END) for row in rows)
    path = write(tmp_path_factory.mktemp("ids") / "a.jsonl.gz", gzip.compress(id_rows(rows, source="x")))
    file = SourceFile(str(path))
    assert count_documents(file, "token_ids", END) == len(documents)
    start = data.draw(st.integers(0, len(documents)))
    stop = data.draw(st.integers(start, len(documents)) | st.none())
    read = [ids.tolist() for _, ids in read_documents(file, "token_ids", start, stop, END)]
    assert read == documents[start:stop]


def test_documents_of_token_ids_over_rows_and_files(tmp_path):
    write(tmp_path / "0.jsonl", id_rows([[7, END, 8], [9], [10, END, END]]))
    write(tmp_path / "1.jsonl", id_rows([[11, 12], [END, 13]]))
    counted = count_all(
        [SourceFile(f"{tmp_path}/{number}.jsonl") for number in range(2)], "token_ids", eot_id=END
    )
    assert [file.documents for file in counted] == [3, 2]
    read = [
        (number, place.rpartition("/")[2], ids.tolist())
        for number, place, ids in read_range(counted, "token_ids", 0, 5, eot_id=END)
    ]
    assert read == [
        (0, "0.jsonl:1", [7]),
        (1, "0.jsonl:1-3", [8, 9, 10]),
        (2, "0.jsonl:3", []),
        (3, "1.jsonl:1-2", [11, 12]),
        (4, "1.jsonl:2", [13]),
    ]
    assert [ids.tolist() for _, _, ids in read_range(counted, "token_ids", 1, 4, eot_id=END)] == [
        [8, 9, 10],
        [],
        [11, 12],
    ]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"token_ids": "1 2"}, "field 'token_ids' is a string, expected a list of token ids"),
        ({"token_ids": [1, 2.0]}, "field 'token_ids' holds 2.0, expected a list of token ids"),
        ({"token_ids": [1, True]}, "field 'token_ids' holds true, expected a list of token ids"),
        ({"token_ids": [-1]}, "field 'token_ids' holds -1, expected a list of token ids"),
        ({"token_ids": [2**32]}, "field 'token_ids' holds 4294967296, expected a list of token ids"),
        ({"token_ids": []}, "field 'token_ids' is empty, expected a list of token ids"),
        ({"token_ids": None}, "field 'token_ids' is null, expected a list of token ids"),
        ({"text": "x"}, "no field 'token_ids'; found text"),
    ],
)
def test_rows_that_are_no_token_ids(tmp_path, row, reason):
    path = write(tmp_path / "a.jsonl", id_rows([[1, END]]) + json.dumps(row).encode())
    with pytest.raises(InputError) as error:
        count_documents(SourceFile(str(path)), "token_ids", END)
    assert str(error.value).startswith(f"{path}:2: {reason}")


def test_the_published_samples_of_amber(shared):
    """The good sample: 9 rows of 2049 ids, 34 of them </s>, the last document unfinished. Row 4 of the bad
    one is no JSON."""
    good = SourceFile(str(shared / "data/amber/good_sample.jsonl"))
    documents = [ids for _, ids in read_documents(good, "token_ids", eot_id=END)]
    assert count_documents(good, "token_ids", END) == len(documents) == 35
    assert sum(map(len, documents)) == 9 * 2049 - 34
    assert len(documents[0]) == 1411 and len(documents[1]) == 1671 - 1412
    bad = shared / "data/amber/bad_sample.jsonl"
    with pytest.raises(InputError, match=rf"^{bad}:4: not valid JSON"):
        count_documents(SourceFile(str(bad)), "token_ids", END)


def test_the_first_field_that_is_there(tmp_path):
    write(tmp_path / "a.jsonl", b'{"text": "0", "content": "x"}\n{"content": "1"}\n')
    pq.write_table(pa.table({"url": ["x"], "content": ["2"]}), tmp_path / "b.parquet")
    fields = ["text", "content"]
    files = count_all(list_files(Source(files=[f"{tmp_path}/*"], field=fields)), fields)
    assert [text for _, _, text in read_range(files, fields, 0, 3)] == ["0", "1", "2"]
    for name, called in (("a.jsonl", ":1: no field"), ("b.parquet", ": no column")):
        with pytest.raises(InputError, match=rf"^{tmp_path}/{name}{called} 'body' or 'raw'; found "):
            texts(tmp_path / name, ["body", "raw"])
