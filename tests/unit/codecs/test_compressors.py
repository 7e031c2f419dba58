"""Sizes by real compressors: those of the command line, of bytes that decode, and none at all where something
went wrong."""

import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import tarfile
import time
import tracemalloc

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save, save_file

from tokenbounds.codecs import byte_stream, compressors
from tokenbounds.codecs.byte_stream import join_planes, stream
from tokenbounds.codecs.compressors import Compressor, best_of, compressed_bytes, size_record
from tokenbounds.errors import InputError

MISSING = [tool for tool in ("gzip", "xz", "zstd") if not shutil.which(tool)]
pytestmark = pytest.mark.skipif(
    bool(MISSING), reason=f"{', '.join(MISSING)} not installed (Debian: gzip, xz-utils, zstd)"
)

ENVIRONMENT = {
    key: value for key, value in os.environ.items() if key not in ("GZIP", "XZ_OPT", "XZ_DEFAULTS")
}
RNG = np.random.default_rng(5)


def weights(*shape):
    return (0.02 * RNG.standard_normal(shape)).astype(np.float16)


@pytest.fixture
def checkpoint(tmp_path):
    """Two shards, with tensors of 2, 4 and 1 bytes, an empty one and an odd number of pieces, and a
    configuration."""
    first, second = tmp_path / "model-1.safetensors", tmp_path / "model-2.safetensors"
    bfloat16 = (RNG.standard_normal(501).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    save_file(
        {
            "a": weights(100, 900),
            "b": RNG.standard_normal(33).astype(np.float32),
            "e": np.zeros(0, np.float16),
        },
        first,
        {"k": "v"},
    )
    save_file({"c": bfloat16, "d": RNG.integers(0, 9, 1001).astype(np.uint8), "f": weights(100, 700)}, second)
    config = tmp_path / "config.json"
    config.write_text('{"n_layer": 2}')
    return [first, second, config]


def command_line(command, path):
    output = subprocess.run(
        f"{command} {path} | wc -c", shell=True, capture_output=True, check=True, env=ENVIRONMENT
    ).stdout
    return int(output)


def no_process_is_left():
    """No compressor, that is: other tests of the same process may have started Python processes that wait for
    more work."""
    return not [child for child in psutil.Process().children() if not child.name().startswith("python")]


# ---------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    ("tool", "level", "command"),
    [
        ("gzip", None, "gzip -n -c"),
        ("gzip", 9, "gzip -9 -n -c"),
        ("xz", None, "xz -6 -T1 -c"),
        ("xz", 0, "xz -0 -T1 -c"),
        (
            "zstd",
            3,
            "zstd -3 --single-thread -c <",
        ),  # by its standard input, zstd does not know the length and leaves it out
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


# ---------------------------------------------------------------- archives


def python_tar(paths, names):
    """What tarfile writes, built by its own means."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path, name in zip(paths, names, strict=True):
            info = archive.gettarinfo(path, arcname=name)
            info.mtime, info.uid, info.gid, info.uname, info.gname, info.mode = 0, 0, 0, "", "", 0o644
            with open(path, "rb") as handle:
                archive.addfile(info, handle)
    return target.getvalue()


@pytest.mark.parametrize("names", [None, ["b/model.safetensors", "a/ünï.bin", "n" * 300], ["z", "y", "x"]])
def test_several_files_are_the_archive_that_python_writes(checkpoint, tmp_path, names):
    archive = b"".join(stream(checkpoint, names=names))
    assert archive == python_tar(checkpoint, names or [path.name for path in checkpoint])
    assert len(archive) % 10240 == 0
    path = tmp_path / "archive.tar"
    path.write_bytes(archive)
    for tool, command in (("gzip", "gzip -n -c"), ("xz", "xz -6 -T1 -c")):
        assert compressed_bytes(checkpoint, tool, names=names) == command_line(command, path)


def test_tar_reads_the_archive(checkpoint, tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    names = ["z.safetensors", "a.safetensors", "config.json"]
    archive = b"".join(stream(checkpoint, names=names))
    listing = subprocess.run(
        ["tar", "--numeric-owner", "-tvf", "-"],
        input=archive,
        capture_output=True,
        check=True,
        env={"TZ": "UTC"},
    )
    lines = listing.stdout.decode().splitlines()
    assert [line.split()[-1] for line in lines] == names
    assert all(line.startswith("-rw-r--r-- 0/0 ") and " 1970-01-01 00:00 " in line for line in lines)
    subprocess.run(["tar", "-xf", "-", "-C", target], input=archive, check=True)
    for path, name in zip(checkpoint, names, strict=True):
        assert (target / name).read_bytes() == path.read_bytes()


def test_a_member_beyond_eight_gibibytes_has_a_header(tmp_path):
    path = tmp_path / "large"
    with open(path, "wb") as handle:
        handle.truncate((8 << 30) + 5)
    header = next(stream([path, path], names=["a", "b"]))
    assert tarfile.TarInfo.frombuf(header, "utf-8", "strict").size == (8 << 30) + 5


# ---------------------------------------------------------------- byte planes


@pytest.mark.parametrize("tool", ["gzip", "xz", "zstd"])
def test_planes_round_trip_through_the_compressor(checkpoint, tmp_path, tool):
    """The size is that of a message that decodes: the tool's output, unpacked and joined, is the file bit for
    bit."""
    path, message = checkpoint[1], tmp_path / "message"
    split = tmp_path / "split"
    split.write_bytes(b"".join(stream([path], split_planes=True)))
    assert split.stat().st_size == path.stat().st_size and split.read_bytes() != path.read_bytes()
    with open(split, "rb") as source, open(message, "wb") as target:
        subprocess.run(Compressor(tool).command(), stdin=source, stdout=target, check=True)
    assert compressed_bytes([path], tool, split_planes=True) == message.stat().st_size
    joined = io.BytesIO()
    with (
        open(message, "rb") as source,
        subprocess.Popen([tool, "-dc"], stdin=source, stdout=subprocess.PIPE) as process,
    ):
        join_planes(process.stdout, joined)
    assert joined.getvalue() == path.read_bytes()


def test_planes_in_an_archive(checkpoint):
    """Only the safetensors members are split, and each can be joined from the archive."""
    with tarfile.open(fileobj=io.BytesIO(b"".join(stream(checkpoint, split_planes=True)))) as archive:
        for path in checkpoint:
            member = archive.extractfile(path.name)
            if path.suffix == ".safetensors":
                joined = io.BytesIO()
                join_planes(member, joined)
                assert joined.getvalue() == path.read_bytes()
            else:
                assert member.read() == path.read_bytes()


def test_planes_are_the_documented_ones(tmp_path):
    """Low bytes, then high bytes, of every 4 MiB; the reference is written out by hand."""
    values = np.arange(2_500_000, dtype=np.uint16)  # one piece of 2^21 values and a shorter one
    wide = np.arange(5, dtype=np.float32)
    data = save({"h": values, "w": wide})
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    start = data.index(values[:1000].tobytes())
    expected = bytearray(data)
    for first in (0, 1 << 21):
        piece = values[first : first + (1 << 21)]
        expected[start + 2 * first : start + 2 * first + 2 * piece.size] = (piece & 255).astype(
            "u1"
        ).tobytes() + (piece >> 8).astype("u1").tobytes()
    assert b"".join(stream([path], split_planes=True)) == bytes(expected)


_TENSORS = st.lists(
    st.tuples(st.sampled_from(["<f2", "<i2", "<u2", "<f4", "<u1", "<i8"]), st.integers(0, 40)),
    min_size=1,
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(_TENSORS, st.integers(2, 16).map(lambda half: 2 * half), st.integers(0, 2**32 - 1))
def test_planes_of_any_file_can_be_joined(tensors, piece_bytes, seed):
    rng = np.random.default_rng(seed)
    arrays = {
        f"t{i}": np.frombuffer(rng.bytes(np.dtype(kind).itemsize * size), kind)
        for i, (kind, size) in enumerate(tensors)
    }
    data = save(arrays)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(byte_stream, "_PLANE_BYTES", piece_bytes)
        split = b"".join(byte_stream._planes(io.BytesIO(data).read, "x"))
        joined = io.BytesIO()
        join_planes(io.BytesIO(split), joined)
    assert joined.getvalue() == data and len(split) == len(data)


def test_planes_help_weights(tmp_path):
    """Exponents are predictable and mantissas are not: apart they are smaller."""
    path = tmp_path / "x.safetensors"
    save_file({"a": weights(100_000)}, path)
    for tool in ("xz", "zstd"):
        assert compressed_bytes([path], tool, split_planes=True) < compressed_bytes([path], tool)


def test_no_file_to_split(checkpoint):
    with pytest.raises(InputError, match=r"config\.json: its name does not end in \.safetensors"):
        compressed_bytes(checkpoint[2:], "xz", split_planes=True)


def header(entries, body=b""):
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + body


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"abc", "ends 5 bytes early; expected a whole safetensors file"),
        (b"\xff" * 100, r"header of \d+ bytes; expected a safetensors file"),
        (header(b"{]"), "not a valid safetensors header"),
        (header([1]), "not a valid safetensors header"),
        (header({"a": {"dtype": "F16"}}), "not a valid safetensors header"),
        (
            header({"a": {"dtype": "F16", "data_offsets": [0, 3]}}, b"abc"),
            "a tensor of type F16 with 3 bytes",
        ),
        (
            header({"a": {"dtype": "F16", "data_offsets": [2, 4]}}, b"abcd"),
            "a tensor at 2 to 4 where the last one ended at 0",
        ),
        (header({"a": {"dtype": "F16", "data_offsets": [0, -2]}}), "a tensor at 0 to -2"),
        (header({"a": {"dtype": "F16", "data_offsets": [0, 4]}}, b"abc"), "ends 1 bytes early"),
        (header({"a": {"dtype": "F16", "data_offsets": [0, 2]}}, b"abc"), "bytes after the last tensor"),
        (header(b"[" * 100_000), "not a valid safetensors header"),
    ],
)
def test_damaged_safetensors(tmp_path, data, message):
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(InputError, match=rf"^{path}: .*{message}") as error:
        compressed_bytes([path], "xz", split_planes=True)
    assert "\n" not in str(error.value) and no_process_is_left()
    with pytest.raises(InputError, match=message):
        join_planes(io.BytesIO(data), io.BytesIO())
    assert compressed_bytes([path], "xz") > 0  # as plain bytes it is what it is


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
    assert (
        single["container"] is None and single["files"] == record["files"][:1]
    )  # the hash is of the file, not of its planes
    assert "v" in single["tool_version"] and "\n" not in single["tool_version"]


# ---------------------------------------------------------------- what goes wrong


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
@pytest.mark.parametrize(
    "size", [20_000, 3_000_000]
)  # all of the former lies in the socket before anything is read
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
            f"{checkpoint[0]}: its name in the archive, 'a', is empty or another file's too; expected one of its own",
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
        expected = f"{path}: {size} bytes read where there were {4 << 20} at first; expected a file that does not change"
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
