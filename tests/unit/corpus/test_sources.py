"""Files of a source in order, and one clear line for a wrong source."""

import importlib.metadata

import pytest
from support.documents import texts_of, write

from tokenbounds.config.schema import Source
from tokenbounds.corpus.sources import SourceFile, list_files
from tokenbounds.errors import InputError


def test_installed_lists_the_packages_python_files_in_order():
    files = list_files(Source(installed=["tqdm", "packaging"]))
    assert all(file.path.endswith(".py") and file.bytes() > 0 for file in files)
    packages = [file.package for file in files]
    assert packages == sorted(packages, key=["tqdm", "packaging"].index) and set(packages) == {
        "tqdm",
        "packaging",
    }
    names = [file.path for file in files if file.package == "tqdm"]
    recorded = [
        file for file in importlib.metadata.files("tqdm") if file.suffix == ".py" and ".." not in file.parts
    ]
    assert names == sorted(file.as_posix() for file in recorded if file.locate().stat().st_size)
    # Names do not depend on the machine, and still lead to the files.
    assert "tqdm/std.py" in names
    std = next(file for file in files if file.path == "tqdm/std.py")
    assert texts_of(std) == [std.location.read_text(encoding="utf-8")]


def test_exclude_matches_the_whole_path():
    every = list_files(Source(installed=["tqdm"]))
    left = list_files(Source(installed=["tqdm"], exclude=["tqdm/contrib/*", "*/std.py"]))
    assert {file.path for file in every} - {file.path for file in left} == {
        file.path for file in every if file.path.startswith("tqdm/contrib/") or file.path.endswith("/std.py")
    }
    with pytest.raises(InputError, match=r"^source: no file is left of \d+ after exclude \['\*'\]$"):
        list_files(Source(installed=["tqdm"], exclude=["*"]))


def test_unknown_package():
    with pytest.raises(InputError) as error:
        list_files(Source(installed=["tqdm", "no-such-package-here"]))
    assert (
        str(error.value)
        == "source.installed: no package 'no-such-package-here' is installed in this environment"
    )


def test_globs_are_sorted_relative_and_unique(tmp_path, monkeypatch):
    for name in ("b/2.txt", "b/1.txt", "a.jsonl", "b/c/3.txt"):
        write(tmp_path / name, b"{}")
    monkeypatch.chdir(tmp_path)
    assert [file.path for file in list_files(Source(files=["b/**/*.txt", "a.jsonl", "b/1.txt"]))] == [
        "b/1.txt",
        "b/2.txt",
        "b/c/3.txt",
        "a.jsonl",
    ]
    with pytest.raises(InputError) as error:
        list_files(Source(files=["a.jsonl", "c/*.txt"]))
    assert str(error.value) == f"source.files: 'c/*.txt' matches no file (in {tmp_path})"


def test_hub_files_are_taken_in_order_and_excluded_by_their_name_in_the_dataset():
    files = [
        {"name": name, "path": f"/downloads/x/{name}", "sha256": name}
        for name in ("data/b.parquet", "data/a.parquet", "x/a.parquet")
    ]
    source = Source(hub="owner/name", revision="0" * 40, exclude=["x/*"])
    listed = list_files(source, files)
    assert [file.path for file in listed] == ["/downloads/x/data/a.parquet", "/downloads/x/data/b.parquet"]
    assert [file.sha256 for file in listed] == ["data/a.parquet", "data/b.parquet"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a.csv", "unknown format '.csv'"),
        ("a.gz", "unknown format ''"),
        ("a.parquet.gz", "a packed parquet file"),
    ],
)
def test_unknown_formats(tmp_path, name, reason):
    path = write(tmp_path / name, b"x")
    with pytest.raises(InputError, match=f"^{path}: {reason}"):
        list_files(Source(files=[str(path)]))


def test_a_lost_file(tmp_path):
    with pytest.raises(InputError, match=f"^{tmp_path}/a.txt: cannot be read .No such file or directory.$"):
        SourceFile(f"{tmp_path}/a.txt").bytes()


def test_token_ids_are_read_from_jsonl_only(tmp_path):
    path = write(tmp_path / "a.txt", b"1 2")
    with pytest.raises(InputError, match=rf"^{path}: found \.txt; expected \.jsonl, as source\.eot_id says"):
        list_files(Source(files=[str(path)], field="token_ids", eot_id=2))
