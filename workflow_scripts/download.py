"""Download a hub repository at one commit and list its files."""

from pathlib import Path

from common import job

from tokenbounds.files import provenance, write_json
from tokenbounds.hub import download, download_model, resolve


def main(manifest, repository, revision, repository_type, patterns=None, weights=False):
    """Download into the manifest's folder; the manifest names the commit and every file with its size and sha256."""
    folder = Path(manifest).parent / "files"
    commit = resolve(repository, revision, repo_type=repository_type, folder=folder)
    if weights:
        files = download_model(repository, commit, folder=folder)
    else:
        files = download(repository, commit, repo_type=repository_type, folder=folder, patterns=patterns)
    config = {"repository": repository, "revision": revision, "type": repository_type, "patterns": patterns}
    write_json(manifest, {"folder": str(folder), "revision": commit, "files": files, **provenance(config)})


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake.output.manifest, **snakemake.params)
