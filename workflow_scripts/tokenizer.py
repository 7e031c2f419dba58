"""Train, copy or convert a corpus's tokenizer."""

from common import job

from tokenbounds.files import read_json
from tokenbounds.sections import Corpus
from tokenbounds.tokenize import prepare_tokenizer, training_documents


def main(folder, files, manifest, roles, corpus):
    """Write the tokenizer's folder; for a hub tokenizer, `files` holds the download's manifest."""
    section = Corpus.model_validate(corpus)
    prepare_tokenizer(
        section,
        folder,
        documents=training_documents(section, manifest, roles) if section.tokenizer.train else None,
        hub_files=read_json(files[0])["files"] if section.tokenizer.hub else None,
        other=files[0] if section.tokenizer.corpus else None,
    )


if __name__ == "__main__":
    with job(snakemake):
        main(
            snakemake.output.folder,
            snakemake.input.files,
            snakemake.input.manifest,
            snakemake.input.roles,
            snakemake.params.corpus,
        )
