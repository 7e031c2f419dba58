"""Certificates: records, a message and an index to bounds that a stranger can check.

In: the files of a run (message, index, records) and the `bounds` section of the configuration. Out:
one JSON file per result, with every bound, every term and the hashes of the files behind it; and the checks
that compute it all again. Making one is arithmetic: no model is run and torch is not imported."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "checks": ["Check"],
        "commit": ["commitment"],
        "describe": ["describe_certificate"],
        "evaluate": ["metrics"],
        "files": ["read_certificate", "write_certificate"],
        "make": ["make_certificate"],
        "verify": ["taken_as_stated", "verify_certificate"],
    },
)
