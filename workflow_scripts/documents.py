"""Count a corpus's documents, give each a role, and divide them among shards."""

from common import script

from tokenbounds.config.schema import Corpus
from tokenbounds.corpus.documents import write_manifest
from tokenbounds.corpus.sources import list_files
from tokenbounds.io.files import read_json


@script
def main(manifest, roles, files, section, corpus, seed, threads):
    """Write documents.json and roles.bin; `files` holds a download's manifest, or generated documents."""
    section = Corpus.model_validate(section)
    downloaded = read_json(files[0])["files"] if section.source.hub else None
    sources = list_files(section.source, downloaded, generated=files[0] if section.source.made else None)
    write_manifest(section, seed, corpus, sources, manifest, roles, threads)
