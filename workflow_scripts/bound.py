"""Compute one certificate from its message, index, draws and records."""

from pathlib import Path

from common import job

from tokenbounds.certificate import make, write


def main(certificate, parts, delta, bounds, choices_bits):
    """Write the certificate; its name and place say what it is computed from."""
    path = Path(certificate)
    write(path, make(path.parent.parent, path.stem, delta=delta, settings=bounds, choices_bits=choices_bits, parts=parts))


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake.output.certificate, len(snakemake.input.records), **snakemake.params)
