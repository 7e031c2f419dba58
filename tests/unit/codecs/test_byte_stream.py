"""The byte stream of a checkpoint: archives as tar and Python write them, byte planes that can be joined."""

import io
import subprocess
import tarfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save, save_file
from safetensors.torch import save_file as save_tensors
from support.compressors import command_line, header, needs_compressors, no_process_is_left, weights

from tokenbounds.codecs import byte_stream
from tokenbounds.codecs.byte_stream import join_planes, stream
from tokenbounds.codecs.compressors import Compressor, compressed_bytes, size_record
from tokenbounds.errors import InputError

pytestmark = needs_compressors


# ---------------------------------------------------------------- archives


def python_tar(paths, names):
    """Write the archive of files with `tarfile`."""
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
        subprocess.run(Compressor(tool, split_planes=True).command(), stdin=source, stdout=target, check=True)
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


TENSORS = st.lists(
    st.tuples(st.sampled_from(["<f2", "<i2", "<u2", "<f4", "<u1", "<i8"]), st.integers(0, 40)),
    min_size=1,
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(TENSORS, st.integers(2, 16).map(lambda half: 2 * half), st.integers(0, 2**32 - 1))
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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_fast_level_of_planes_costs_little(tmp_path, dtype):
    """The default level of zstd for byte planes is within 2% of the slowest one's size."""
    path, scales = tmp_path / "x.safetensors", 0.02 * torch.exp(torch.linspace(-1, 1, 512))
    values = torch.from_numpy(np.random.default_rng(8).standard_normal((2048, 512), np.float32))
    save_tensors({"a": (values * scales).to(dtype)}, path)
    record = size_record([path], [Compressor("zstd", split_planes=True)])
    slowest = compressed_bytes([path], "zstd", level=19, split_planes=True)
    assert record["level"] == 1 and record["bytes"] < 1.02 * slowest < 0.9 * path.stat().st_size


def test_no_file_to_split(checkpoint):
    with pytest.raises(InputError, match=r"config\.json: its name does not end in \.safetensors"):
        compressed_bytes(checkpoint[2:], "xz", split_planes=True)


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
    assert compressed_bytes([path], "xz") > 0
