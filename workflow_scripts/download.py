"""Download a hub repository at one commit and list its files."""

from pathlib import Path

from common import script

from tokenbounds.io.files import write_json
from tokenbounds.io.hub import download, download_model, resolve
from tokenbounds.io.provenance import provenance


@script
def main(manifest, repository, revision, repository_type, patterns=None, weights=False):
    """Download into the manifest's folder; the manifest lists the commit and each file's size and sha256."""
    folder = Path(manifest).parent / "files"
    commit = resolve(repository, revision, repo_type=repository_type, folder=folder)
    if weights and patterns is None:
        files = download_model(repository, commit, folder=folder)
    else:
        files = download(repository, commit, repo_type=repository_type, folder=folder, patterns=patterns)
    config = {"repository": repository, "revision": revision, "type": repository_type, "patterns": patterns}
    write_json(manifest, {"folder": str(folder), "revision": commit, "files": files, **provenance(config)})
