"""Commitments: a hash to publish before a beacon is known, so that nobody can have tried many draws.

::

    before    message, index, delta, grids, candidates, scheme, name of a future beacon --> hash, published
    then      the beacon's value                                          --> sampling.beacon
    after     certificate, name of the beacon                             --> the same hash
"""

import hashlib

from tokenbounds.config.schema import Bounds, slice_of
from tokenbounds.corpus.sampling import context_of
from tokenbounds.io.files import canonical_json

_DOMAIN = "tokenbounds commitment 1"


def commitment(message_sha256, index_identity, *, delta, settings, choices_bits, scheme, beacon_from):
    """Hash all that a certificate will be computed from, besides the beacon's value.

    Parameters
    ----------
    message_sha256, index_identity : str
        See `tokenbounds.corpus.sampling.draw_key`.
    delta, settings, choices_bits, scheme
        See `tokenbounds.certificates.make.make_certificate`; the scheme's ``beacon`` does not count.
    beacon_from : str
        Which public random value will be used, e.g. the round of a randomness beacon.

    Returns
    -------
    str
        SHA-256 of the canonical JSON of all of them, 64 hexadecimal digits.
    """
    content = {
        "domain": _DOMAIN,
        "message": message_sha256,
        "index": index_identity,
        "delta": delta,
        "settings": slice_of(Bounds.model_validate(settings)),
        "choices_bits": choices_bits,
        "scheme": {key: value for key, value in scheme.items() if key != "beacon"},
        "beacon_from": beacon_from,
    }
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def commitment_of(certificate, beacon_from):
    """Compute the commitment that must have been published for a certificate (a dict)."""
    return commitment(
        certificate["hypothesis"]["message"]["sha256"],
        certificate["corpus"]["identity"],
        **{key: certificate[key] for key in ("delta", "settings", "choices_bits")},
        scheme=context_of(certificate["sampling"]) | {"n": certificate["n"]},
        beacon_from=beacon_from,
    )
