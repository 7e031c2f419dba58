"""Count one Markov chain on part of the training tokens."""

from pathlib import Path

from common import script

from tokenbounds.corpus.store import TokenStore
from tokenbounds.io.provenance import provenance
from tokenbounds.models.folders import save_model
from tokenbounds.models.markov import train_chain


@script
def main(weights, index, section, seed):
    """Write the chain to the folder of `weights`."""
    options = {key: section[key] for key in ("order", "tokens", "start_token", "floor_bits")}
    store = TokenStore(Path(index).parent)
    chain, config, start, stop = train_chain(store, **options, seed=seed, corpus_name=section["corpus"])
    parameters = sum(parameter.numel() for parameter in chain.parameters())
    facts = {"parameters": parameters, "seed": seed, "first_position": start, "tokens": stop - start}
    save_model(Path(weights).parent, chain, config, provenance(section, [index], **facts))
