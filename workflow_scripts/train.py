"""Train one model; a killed training continues from its last checkpoint."""

from common import script

from tokenbounds.training.job import train_model


@script
def main(weights, train, val, start, code, section, seed, model, resources, *, config):
    """Write weights, configuration and curve; how often a checkpoint is written is no param, as it changes no
    weight."""
    minutes, gpus = config.models[model].training.checkpoint_minutes, resources.get("gpu")
    options = {"section": section, "seed": seed, "code": code}
    train_model(weights, train, val, start, **options, gpus=gpus, checkpoint_minutes=minutes)
