"""Files and folders that are whole or absent, also after a process was killed."""

import os
import subprocess
import sys
import time

import pytest

from tokenbounds.io.files import atomic_folder, atomic_path, is_excluded, matching_files, remove_temporaries


@pytest.fixture
def dead():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def old(path, hours=2):
    past = time.time() - 3600 * hours
    os.utime(path, (past, past))
    return path


def test_a_failure_leaves_what_was_there(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_path(tmp_path / "a") as temporary:
        temporary.write_text("new")
        raise ZeroDivisionError
    (tmp_path / "b").mkdir()
    (tmp_path / "b/x").write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "b") as temporary:
        (temporary / "y").write_text("new")
        raise ZeroDivisionError
    assert (tmp_path / "a").read_text() == "old" and [path.name for path in (tmp_path / "b").iterdir()] == [
        "x"
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    for name in ("x", "y"):
        with atomic_folder(tmp_path / "b") as temporary:
            (temporary / name).write_text(name)
    assert [path.name for path in tmp_path.rglob("*")] == ["b", "y"]


def test_what_killed_processes_left_is_removed(tmp_path, dead):
    left = tmp_path / f".a[1].bin.{dead}.tmp"
    left.write_text("half")
    folder = tmp_path / f".b.{dead}.tmp"
    (folder / "inner").mkdir(parents=True)
    for path in (left, folder):
        old(path)
    with atomic_path(tmp_path / "a[1].bin") as temporary:
        temporary.write_text("whole")
    with atomic_folder(tmp_path / "b"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a[1].bin", "b"]


def test_what_may_be_in_use_is_left(tmp_path, dead):
    """A new file (perhaps another machine's process), one of a live process, and those of other names."""
    kept = [
        tmp_path / name
        for name in (
            f".a.{dead}.tmp",
            f".a.{os.getppid()}.tmp",
            ".a.1.tmp",
            f".ab.{dead}.tmp",
            f".a.bin.{dead}.tmp",
            ".a.x.tmp",
        )
    ]
    for path in kept:
        path.write_text("half")
    for path in kept[1:]:
        old(path)
    with atomic_path(tmp_path / "a") as temporary:
        temporary.write_text("whole")
    assert all(path.exists() for path in kept)


def test_what_a_killed_run_left_is_removed_at_once(tmp_path, dead):
    kept = [tmp_path / name for name in ("a/x", f"a/.x.{os.getpid()}.tmp", "a/.1.tmp", f"a/x.{dead}.tmp")]
    left = [
        tmp_path / name
        for name in (f"a/.x.{dead}.tmp", f".b.{dead}.tmp/inner/x", f".b.{dead}.tmp/.x.{dead}.tmp")
    ]
    for path in kept + left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
    remove_temporaries(tmp_path)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(kept)
    remove_temporaries(tmp_path / "absent")


def test_a_process_with_the_number_of_a_killed_one(tmp_path):
    left = tmp_path / f".b.{os.getpid()}.tmp"
    left.mkdir()
    (left / "half").write_text("half")
    with atomic_folder(tmp_path / "b") as temporary:
        (temporary / "x").write_text("x")
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["x"] and not left.exists()


def test_matching_files_are_no_folders(tmp_path):
    for name in ("b/c.txt/2.txt", "b/1.txt", "a.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    matching = matching_files(f"{tmp_path}/**")
    assert matching == [f"{tmp_path}/{name}" for name in ("a.txt", "b/1.txt", "b/c.txt/2.txt")]
    assert [path for path in matching if is_excluded(path, ["*/1.txt", "*.txt/*"])] == matching[1:]
