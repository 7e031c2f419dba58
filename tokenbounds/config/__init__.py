"""The configuration of a run: one closed, described schema.

In: YAML files, laid one over the other. Out: an immutable `Config`, whose cross references and contradictions
have been checked, with the names of the files that it leads to; or one line that names the error. `schema`
holds the sections. Nothing here imports torch: the Snakefile reads the configuration in every cluster job.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "load": ["json_schema", "load_config", "parse_config"],
        "run": ["Config"],
        "sweeps": ["expand_sweeps"],
    },
)
