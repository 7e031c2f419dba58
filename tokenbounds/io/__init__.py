"""Input and output: whole files, their hashes and provenance, downloads, and fingerprints of code.

In: values and paths. Out: files that are complete or absent, sidecars that say how a result was made, and
hashes that say what a result depends on. Nothing here decides a number.

Two functions are named like their modules and are imported from them: `tokenbounds.io.provenance.provenance`
and `tokenbounds.io.fingerprint.fingerprint`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "files": [
            "atomic_folder",
            "atomic_path",
            "canonical_json",
            "check_sha256",
            "config_hash",
            "is_excluded",
            "matching_files",
            "read_json",
            "remove_temporaries",
            "sha256_file",
            "write_json",
            "write_text",
        ],
        "fingerprint": ["closure", "full_name"],
        "hub": ["download", "download_model", "published_source", "resolve"],
        "provenance": ["git_commit", "versions"],
    },
)
