"""Coding of a trained model with a codec of the configuration."""

from tokenbounds.codecs.decode import encode_model, write_message
from tokenbounds.codecs.frame import codec_of
from tokenbounds.codecs.header import complexity_bits
from tokenbounds.config.schema.base import checked
from tokenbounds.config.schema.codecs import CODECS
from tokenbounds.corpus.store import TokenStore
from tokenbounds.io.files import sha256_file, write_json
from tokenbounds.io.provenance import provenance
from tokenbounds.models.folders import load_config
from tokenbounds.plugins import load


def code_model(folder, codec, contexts, *, name, seed, tokens=None, device="auto"):
    """Quantize and code the model in a folder.

    Where the codec's section names a preparation, that function quantizes the model first. It is called with
    the folder, the section as a dictionary, and the keywords `name`, `seed`, `tokens` (a `TokenStore` or
    None) and `device`, and returns the codec's options in the message, the tensors (dict of str to
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
    options, tensors, report = prepare(folder, codec, name=name, seed=seed, tokens=store, device=device)
    return encode_model(folder, options, contexts, tensors), report


def write_with_sidecar(path, sidecar, data, config, inputs=(), **facts):
    """Write a message, decode the written file, and write its sidecar.

    Parameters
    ----------
    path, sidecar : path
        Outputs: the message and the json beside it.
    data : bytes
        The message.
    config : dict
        The slice of the configuration that determines the message.
    inputs : iterable of path
        Files that the message was made from; their sha256 is recorded.
    **facts
        Further entries, besides the message's size, its parts and the number of its values.
    """
    message = write_message(path, data)
    bits = complexity_bits(path, message)
    values = sum(tensor.size for tensor in message.tensors.values())
    facts = {
        "message_bytes": bits // 8,
        "message_bits": bits,
        "sha256": sha256_file(path),
        "section_bytes": message.section_bytes,
        **({"parameters": values, "bits_per_parameter": bits / values} if values else {}),
        **({"alpha_head": message.head.config["alpha_head"]} if message.head else {}),
        **facts,
    }
    write_json(sidecar, provenance(config, inputs, **facts))
