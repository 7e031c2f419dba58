"""Count a corpus's documents, give each a role, and divide them among shards."""

from common import job

from tokenbounds.corpus import write_manifest
from tokenbounds.files import read_json
from tokenbounds.sections import Corpus
from tokenbounds.sources import list_files


def main(manifest, roles, files, corpus, name, seed, processes):
    """Write documents.json and roles.bin; `files` holds a hub corpus's manifest of the download, or the documents that were made."""
    section = Corpus.model_validate(corpus)
    downloaded = read_json(files[0])["files"] if section.source.hub else None
    found = list_files(section.source, downloaded, generated=files[0] if section.source.made else None)
    write_manifest(section, seed, name, found, manifest, roles, processes)


if __name__ == "__main__":
    with job(snakemake):
        main(
            snakemake.output.manifest,
            snakemake.output.roles,
            snakemake.input.files,
            snakemake.params.corpus,
            snakemake.wildcards.corpus,
            snakemake.params.seed,
            snakemake.threads,
        )
