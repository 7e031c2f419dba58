"""Compressors of the command line for tests, and safetensors files."""

import json
import os
import shutil
import subprocess

import numpy as np
import psutil
import pytest

MISSING = [tool for tool in ("gzip", "xz", "zstd") if not shutil.which(tool)]
needs_compressors = pytest.mark.skipif(
    bool(MISSING), reason=f"{', '.join(MISSING)} not installed (Debian: gzip, xz-utils, zstd)"
)
ENVIRONMENT = {
    key: value for key, value in os.environ.items() if key not in ("GZIP", "XZ_OPT", "XZ_DEFAULTS")
}
RNG = np.random.default_rng(5)


def weights(*shape):
    """Draw float16 weights."""
    return (0.02 * RNG.standard_normal(shape)).astype(np.float16)


def command_line(command, path):
    """Count the bytes that a command makes of a file."""
    output = subprocess.run(
        f"{command} {path} | wc -c", shell=True, capture_output=True, check=True, env=ENVIRONMENT
    ).stdout
    return int(output)


def no_process_is_left():
    """Check that no compressor is left; other tests of the same process may have started Python processes
    that wait for more work."""
    return not [child for child in psutil.Process().children() if not child.name().startswith("python")]


def header(entries, body=b""):
    """Make a safetensors file of any header (JSON, or the bytes of a text) and any body."""
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + body
