"""Train, copy or convert a corpus's tokenizer."""

from common import script

from tokenbounds.config.schema import Corpus
from tokenbounds.corpus.tokenizers import prepare_tokenizer, training_documents
from tokenbounds.io.files import read_json
from tokenbounds.io.hub import published_source


@script
def main(folder, files, manifest, roles, section):
    """Write the tokenizer's folder; `files` holds what its kind needs: see `tokenizer_files` in rules/."""
    section = Corpus.model_validate(section)
    prepare_tokenizer(
        section,
        folder,
        documents=training_documents(section, manifest, roles) if section.tokenizer.train else None,
        hub_files=read_json(files[0])["files"] if section.tokenizer.hub else None,
        other=files[0] if section.tokenizer.corpus else None,
        gguf=published_source(files[0]) if section.tokenizer.model else None,
    )
