"""Count one Markov chain on part of the training tokens."""

from pathlib import Path

from common import job

from tokenbounds.corpus import TokenStore
from tokenbounds.files import provenance
from tokenbounds.models import save_model
from tokenbounds.models.markov import train_chain


def main(weights, index, model, seed):
    """Write the chain to the folder of `weights`."""
    options = {key: model[key] for key in ("order", "tokens", "start_token", "floor_bits")}
    chain, config, start, stop = train_chain(TokenStore(Path(index).parent), **options, seed=seed, corpus_name=model["corpus"])
    parameters = sum(parameter.numel() for parameter in chain.parameters())
    facts = {"parameters": parameters, "seed": seed, "first_position": start, "tokens": stop - start}
    save_model(Path(weights).parent, chain, config, provenance(model, [index], **facts))


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake.output.weights, snakemake.input.index, **snakemake.params)
