"""Sizes by real compressors: those of the command line, and none at all after an error."""

import hashlib
import json
import os
import random
import subprocess
import time
import tracemalloc

import numpy as np
import pytest
from safetensors.numpy import save_file
from support.compressors import command_line, header, needs_compressors, no_process_is_left

from tokenbounds.codecs import compressors
from tokenbounds.codecs.byte_stream import stream
from tokenbounds.codecs.compressors import Compressor, best_of, compressed_bytes, size_record
from tokenbounds.errors import InputError

pytestmark = needs_compressors


# ---------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    ("tool", "level", "command"),
    [
        ("gzip", None, "gzip -n -c"),
        ("gzip", 9, "gzip -9 -n -c"),
        ("xz", None, "xz -6 -T1 -c"),
        ("xz", 0, "xz -0 -T1 -c"),
        # from its standard input, zstd does not know the length and leaves it out
        ("zstd", 3, "zstd -3 --single-thread -c <"),
        ("zstd", None, "zstd -19 --single-thread -c <"),
    ],
)
def test_one_file_has_the_size_of_the_command_line(checkpoint, tool, level, command):
    path = checkpoint[0]
    size = compressed_bytes([path], tool, level=level)
    assert size == command_line(command, path) == compressed_bytes(path, tool, level=level)


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_any_length(tmp_path, size):
    path = tmp_path / "x"
    path.write_bytes(bytes(random.Random(size).choices(b"abcdefgh", k=size)))
    assert compressed_bytes([path], "gzip") == command_line("gzip -n -c", path)


def window_edge():
    """Bytes whose size under gzip depends on how much it is given at a time.

    gzip moves its window of 65,536 bytes once it stands at 65,274 or beyond; with 65,535 bytes given it does
    so one byte early, and then no longer finds the only match at the largest distance, 32,506."""
    data = bytearray(random.Random(2).choices(range(16), k=70000))
    data[65274:65282] = data[32768:32776] = bytes([30, 29, 28, 27, 31, 26, 25, 24])
    data[32765:32768], data[65271:65274] = bytes([16, 23, 21]), bytes([17, 18, 19])
    return bytes(data)


def test_the_size_does_not_depend_on_the_timing(tmp_path):
    data = window_edge()
    path = tmp_path / "x"
    path.write_bytes(data)

    def slowly():
        yield data[:65535]
        time.sleep(0.2)
        yield data[65535:]

    expected = command_line("gzip -n -c", path)
    # A pipe gives another size for these bytes, or this test shows nothing.
    with subprocess.Popen(["gzip", "-n", "-c"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as piped:
        for block in slowly():
            piped.stdin.write(block)
            piped.stdin.flush()
        piped.stdin.close()
        assert len(piped.stdout.read()) != expected
    assert compressors._output_bytes(["gzip", "-n", "-c"], slowly()) == expected


def test_options_in_the_environment_change_nothing(checkpoint, monkeypatch):
    sizes = [compressed_bytes(checkpoint[:1], tool) for tool in ("gzip", "xz", "zstd")]
    for name, value in {
        "GZIP": "-1",
        "XZ_OPT": "-0 --check=sha256",
        "XZ_DEFAULTS": "-0",
        "ZSTD_CLEVEL": "1",
    }.items():
        monkeypatch.setenv(name, value)
    assert [compressed_bytes(checkpoint[:1], tool) for tool in ("gzip", "xz", "zstd")] == sizes


def test_the_same_bytes_have_the_same_size(checkpoint, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    copies = [other / path.name for path in checkpoint]
    for number, (path, copy) in enumerate(zip(checkpoint, copies, strict=True)):
        copy.write_bytes(path.read_bytes())
        copy.chmod(0o600)
        os.utime(copy, (number, 1e9 + number))
    for tool in ("gzip", "zstd", "xz"):
        assert size_record(checkpoint[1:], [tool]) == size_record(copies[1:], [tool])
    assert b"".join(stream(checkpoint)) == b"".join(stream(copies))


def test_memory_is_bounded(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"a": np.zeros(60_000_000, np.float16)}, path)
    for split_planes in (False, True):
        tracemalloc.start()
        compressed_bytes([path], "gzip", level=1, split_planes=split_planes)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 30e6
    assert no_process_is_left()


# ---------------------------------------------------------------- choice and record


def test_best_of_several(checkpoint):
    tried = ["gzip", Compressor("xz", 0), Compressor("xz", split_planes=True), "xz"]
    sizes = [compressed_bytes(checkpoint, "gzip"), compressed_bytes(checkpoint, "xz", level=0)]
    sizes += [compressed_bytes(checkpoint, "xz", split_planes=True), compressed_bytes(checkpoint, "xz")]
    assert best_of(checkpoint, tried) == (min(sizes), tried[2], 2.0)
    record = size_record(checkpoint, tried)
    assert [entry["bytes"] for entry in record["tried"]] == sizes
    assert (record["tool"], record["level"], record["split_planes"], record["extra_bits"]) == (
        "xz",
        6,
        True,
        2.0,
    )
    assert best_of(checkpoint, ["gzip"]) == (sizes[0], "gzip", 0.0)


def test_record(checkpoint):
    record = size_record(checkpoint, ["gzip"])
    version = subprocess.run(["gzip", "--version"], capture_output=True, text=True).stdout.splitlines()[0]
    size = compressed_bytes(checkpoint, "gzip")
    assert json.loads(json.dumps(record, allow_nan=False)) == {
        "bytes": size,
        "bits": 8 * size,
        "tool": "gzip",
        "level": 6,
        "split_planes": False,
        "tool_version": version,
        "container": "tar",
        "files": [
            {
                "name": path.name,
                "bytes": path.stat().st_size,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            }
            for path in checkpoint
        ],
        "tried": [{"tool": "gzip", "level": 6, "split_planes": False, "bytes": size}],
        "extra_bits": 0.0,
    }
    single = size_record(checkpoint[:1], [Compressor("zstd", 1, split_planes=True)])
    # the hash is of the file, not of its planes
    assert single["container"] is None and single["files"] == record["files"][:1]
    assert "v" in single["tool_version"] and "\n" not in single["tool_version"]


# ---------------------------------------------------------------- errors


def fake_tool(folder, monkeypatch, script):
    folder.mkdir(exist_ok=True)
    tool = folder / "gzip"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (
            "cat >/dev/null; echo disk on fire >&2; exit 3",
            r"gzip -n -c -6: ended with status 3 (disk on fire)",
        ),
        (
            "head -c 100000; kill -9 $$",
            r"gzip -n -c -6: was ended by signal 9 before it had read everything (without a word)",
        ),
        ("cat; kill -15 $$", r"gzip -n -c -6: was ended by signal 15 (without a word)"),
        ("exit 0", r"gzip -n -c -6: ended with status 0 before it had read everything (without a word)"),
        (
            "head -c 1000",
            r"gzip -n -c -6: ended with status 0 before it had read everything (without a word)",
        ),
        ("yes error | head -c 300000 >&2; cat; exit 1", r"gzip -n -c -6: ended with status 1 (error error"),
    ],
)
# all of the smaller size lies in the socket before anything is read
@pytest.mark.parametrize("size", [20_000, 3_000_000])
def test_a_compressor_that_fails(tmp_path, monkeypatch, script, message, size):
    fake_tool(tmp_path / "bin", monkeypatch, script)
    path = tmp_path / "x"
    path.write_bytes(bytes(size))
    if size < 100_000 and "100000" in script:
        message = message.replace(" before it had read everything", "")
    with pytest.raises(InputError) as error:
        compressed_bytes([path], "gzip")
    assert str(error.value).startswith(message) and "\n" not in str(error.value)
    assert no_process_is_left()


def test_a_wrapped_compressor_ends_with_a_failing_file(tmp_path, monkeypatch):
    # The shell is killed, the command within it goes on until its input ends.
    fake_tool(tmp_path / "bin", monkeypatch, "cat; true")
    path = tmp_path / "x.safetensors"
    path.write_bytes(header({"a": {"dtype": "U8", "data_offsets": [0, 5_000_001]}}, bytes(5_000_000)))
    with pytest.raises(InputError, match="ends 1 bytes early"):
        compressed_bytes([path], "gzip", split_planes=True)
    assert no_process_is_left()


def test_a_compressor_that_hangs_ends_with_a_failing_file(tmp_path, monkeypatch):
    fake_tool(tmp_path / "bin", monkeypatch, "exec sleep 60")
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"abc")
    start = time.monotonic()
    with pytest.raises(InputError, match="ends 5 bytes early"):
        compressed_bytes([path], "gzip", split_planes=True)
    assert time.monotonic() - start < 30 and no_process_is_left()


@pytest.mark.parametrize(("tool", "package"), [("gzip", "gzip"), ("zstd", "zstd"), ("xz", "xz-utils")])
def test_a_tool_that_is_not_installed(checkpoint, monkeypatch, tool, package):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InputError) as error:
        compressed_bytes(checkpoint, tool)
    assert (
        str(error.value)
        == f"compressor '{tool}' is not installed; expected it on the PATH (Debian's package {package})"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("rar",), "compressor 'rar'; expected one of gzip, zstd, xz"),
        (("gzip", 0), "level of gzip is 0; expected 1 to 9"),
        (("zstd", 20), "level of zstd is 20; expected 1 to 19"),
        (("xz", True), "level of xz is True; expected 0 to 9"),
        (("xz", "9"), "level of xz is '9'; expected 0 to 9"),
    ],
)
def test_unknown_tool_or_level(arguments, message):
    with pytest.raises(InputError) as error:
        Compressor(*arguments)
    assert str(error.value) == message


def test_missing_and_impossible_files(checkpoint, tmp_path):
    missing = tmp_path / "missing.bin"
    cases = [
        (
            [missing],
            None,
            f"{missing}: cannot be read (No such file or directory); expected a file to compress",
        ),
        ([tmp_path], None, f"{tmp_path}: not a regular file; expected a file to compress"),
        ([], None, "no files to compress; expected at least one"),
        (checkpoint, ["a"], "1 names for 3 files to compress; expected one each"),
        (
            checkpoint[:2],
            ["a", "a"],
            f"{checkpoint[0]}: its name in the archive, 'a', is empty or another file's too; "
            "expected one of its own",
        ),
    ]
    for paths, names, message in cases:
        with pytest.raises(InputError) as error:
            compressed_bytes(paths, "gzip", names=names)
        assert str(error.value) == message
    with pytest.raises(InputError, match=r"^no compressors given; expected at least one$"):
        best_of(checkpoint, [])


@pytest.mark.parametrize("change", ["shrink", "grow", "remove"])
@pytest.mark.parametrize("archive", [False, True])
def test_a_file_that_changes_while_it_is_read(tmp_path, change, archive):
    path = tmp_path / "x"
    path.write_bytes(bytes(4 << 20))
    other = tmp_path / "y"
    other.write_bytes(b"y")
    paths = [other, path] if archive else [path]
    blocks = stream(paths)
    if change == "remove":
        path.unlink()
        expected = f"{path}: cannot be read (No such file or directory); expected a file to compress"
    else:
        next(blocks)
        size = {"shrink": 2 << 20, "grow": (4 << 20) + 1}[change]
        os.truncate(path, size)
        read = f"{size} bytes read where there were {4 << 20} at first"
        expected = f"{path}: {read}; expected a file that does not change"
    with pytest.raises(InputError) as error:
        compressors._output_bytes(["gzip", "-n", "-c"], blocks)
    assert str(error.value) == expected and no_process_is_left()


def test_a_file_that_changes_between_two_compressors(tmp_path, monkeypatch):
    path = tmp_path / "x"
    path.write_bytes(b"first")
    measure = compressors._output_bytes

    def then_change(command, blocks):
        size = measure(command, blocks)
        path.write_bytes(b"other")
        return size

    monkeypatch.setattr(compressors, "_output_bytes", then_change)
    with pytest.raises(InputError, match=r"x: changed between two compressors; expected the same content$"):
        best_of([path], ["gzip", "xz"])


def test_an_interrupt_leaves_no_process(tmp_path):
    def interrupted():
        yield bytes(1000)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compressors._output_bytes(["xz", "-c"], interrupted())
    assert no_process_is_left()


def test_progress_in_a_log(checkpoint, monkeypatch, caplog):
    monkeypatch.setattr(compressors, "_LOG_SECONDS", -1)
    with caplog.at_level("INFO", logger="tokenbounds.codecs.compressors"):
        compressed_bytes(checkpoint, "gzip", progress=False)
        assert not caplog.messages
        compressed_bytes(checkpoint, "gzip")
    total = sum(path.stat().st_size for path in checkpoint) / 1e9
    assert caplog.messages[-1].startswith(f"gzip: {total:.2f} of {total:.2f} GB, ")


def test_no_socket_is_left(checkpoint):
    def sockets():
        return [entry for entry in os.listdir("/proc/self/fd") if _is_socket(entry)]

    before = len(sockets())
    compressed_bytes(checkpoint, "gzip")
    assert len(sockets()) == before


def _is_socket(descriptor):
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}").startswith("socket:")
    except OSError:
        return False
