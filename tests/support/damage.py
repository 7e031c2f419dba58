"""Damaged files, and runs that end because of them."""

import os
import re


def refused(checkout, *lines, absent=(), arguments=()):
    """The launcher fails and ends with exactly one line per pattern of `lines`; there are no files `absent`
    and no temporary ones."""
    output = checkout.launch(*arguments, check=False)
    last = output.rstrip().rpartition("\n\n")[2].splitlines()
    assert len(last) == len(lines), output
    for line, pattern in zip(sorted(last), sorted(lines), strict=True):
        assert re.fullmatch(pattern, line), f"{line!r} is not {pattern!r}"
    assert not [name for name in absent if (checkout.results / name).exists()]
    assert not [path for path in checkout.folder.rglob("*.tmp") if "snakemake" not in str(path)]
    return output


def keep_times(path, edit):
    """Change a file so that Snakemake does not see it."""
    times = path.stat()
    edit(path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert path.stat().st_mtime_ns == times.st_mtime_ns


def flip(path):
    """Change one byte in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
