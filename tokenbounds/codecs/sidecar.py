"""Messages on disk with a sidecar that records their size, their parts and their origin."""

from tokenbounds.codecs.decode import write_message
from tokenbounds.codecs.header import complexity_bits
from tokenbounds.io.files import sha256_file, write_json
from tokenbounds.io.provenance import provenance


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
