"""Compute all bounds of one record set and write the certificate."""

from pathlib import Path

from common import script

from tokenbounds.certificates.files import write_certificate
from tokenbounds.certificates.make import make_certificate


@script
def main(certificate, records, delta, bounds, choices_bits, scheme):
    """Write the certificate; its path says which message, corpus and sampling it is about."""
    path = Path(certificate)
    run, settings = path.parent.parent, {"delta": delta, "settings": bounds, "choices_bits": choices_bits}
    write_certificate(path, make_certificate(run, path.stem, parts=len(records), scheme=scheme, **settings))
