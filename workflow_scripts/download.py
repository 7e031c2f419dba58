"""Download a pinned revision of a hub repository and list its files."""

from pathlib import Path

from common import job

from tokenbounds.files import provenance, write_json
from tokenbounds.hub import download


def main(manifest, repository, revision, repository_type, patterns=None):
    """Download into the manifest's folder; the manifest names every file with its size and sha256."""
    folder = Path(manifest).parent / "files"
    files = download(repository, revision, repo_type=repository_type, folder=folder, patterns=patterns)
    config = {"repository": repository, "revision": revision, "type": repository_type, "patterns": patterns}
    write_json(manifest, {"folder": str(folder), "files": files, **provenance(config)})


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake.output.manifest, **snakemake.params)
