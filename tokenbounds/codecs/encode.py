"""Coding of a trained model with a codec of the configuration."""

from tokenbounds.codecs.decode import encode_model
from tokenbounds.codecs.frame import codec_of
from tokenbounds.config.schema.base import checked
from tokenbounds.config.schema.codecs import CODECS
from tokenbounds.corpus.store import TokenStore
from tokenbounds.models.folders import load_config
from tokenbounds.plugins import load


def code_model(folder, codec, contexts, *, name, seed, tokens=None, device="auto"):
    """Quantize and code the model in a folder.

    Where the codec's section names a preparation, that function quantizes the model first. It is called with
    the folder, the section as a dictionary, and the keywords `name`, `seed`, `tokens` (a `TokenStore`
    or None), `device` and `contexts`, and returns the options in the message, the tensors (dict of str to
    inputs of the codec) and a report.

    Parameters
    ----------
    folder : path
        With ``config.json`` and ``model.safetensors``.
    codec : dict
        A codec of the configuration: see `tokenbounds.config.schema.codecs`.
    contexts : dict
        See `tokenbounds.codecs.decode.encode_model`.
    name : str
        The model's name; it names random streams.
    seed : int
        The run's seed.
    tokens : path, optional
        Folder of the training tokens, for tuning and calibration.
    device : str
        torch device, or "auto".

    Returns
    -------
    data : bytes
        The message.
    report : dict
        Results of tuning or calibration; empty without.
    """
    section = checked(CODECS[codec["kind"]], codec, f"codec of model '{name}'")
    if section.preparation is None:
        options = codec_of(codec["kind"]).options(codec, load_config(folder))
        return encode_model(folder, options, contexts), {}
    prepare, store = load(section.preparation), TokenStore(tokens) if tokens else None
    options, tensors, report = prepare(
        folder, codec, name=name, seed=seed, tokens=store, device=device, contexts=contexts
    )
    return encode_model(folder, options, contexts, tensors), report
