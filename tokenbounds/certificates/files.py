"""Certificates on disk."""

from pathlib import Path

from tokenbounds.certificates.shape import VERSION, check_shape
from tokenbounds.errors import InputError
from tokenbounds.io.files import read_json, write_json

__all__ = ["VERSION", "read_certificate", "write_certificate"]


def write_certificate(path, certificate):
    """Write a certificate."""
    write_json(path, certificate)


def read_certificate(path):
    """Read a certificate; `InputError` names the file if it is not one of this version, and whole
    (`tokenbounds.certificates.shape`)."""
    if Path(path).is_dir():
        raise InputError(f"{path}: a folder; expected a certificate, results/RUN/bounds/NAME.json")
    certificate = read_json(path)
    check_shape(path, certificate)
    return certificate
