"""Certificates on disk."""

from pathlib import Path

from tokenbounds.errors import InputError
from tokenbounds.io.files import read_json, write_json

VERSION = 2


def write_certificate(path, certificate):
    """Write a certificate."""
    write_json(path, certificate)


def read_certificate(path):
    """Read a certificate; `InputError` names the file if it is not one of this version."""
    if Path(path).is_dir():
        raise InputError(f"{path}: a folder; expected a certificate, results/RUN/bounds/NAME.json")
    certificate = read_json(path)
    if not isinstance(certificate, dict) or certificate.get("certificate") != VERSION:
        raise InputError(f"{path}: not a tokenbounds certificate of version {VERSION}")
    return certificate
