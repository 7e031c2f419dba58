"""Downloads from a Hugging Face hub at a pinned commit, checked against the hub's own hashes.

The environment variables of huggingface_hub apply (``HF_ENDPOINT``, ``HF_HUB_OFFLINE``, ``HF_TOKEN``, ...);
the library reads them when it is first imported."""

import glob
import hashlib
import re
import shutil
from pathlib import Path, PurePosixPath

from tokenbounds.errors import InputError
from tokenbounds.io.files import read_json, sha256_file, write_json

_COMMIT = re.compile(r"[0-9a-f]{40}")
_INDEX, _WEIGHTS = "model.safetensors.index.json", "model.safetensors"


def resolve(repo_id, revision, *, repo_type, folder):
    """Resolve a configured revision to a commit.

    The hub is asked once for ``latest``, and its answer recorded in `folder`: a download that is continued,
    or repeated, stays at its commit. Remove ``.latest.json`` there to ask again.

    Parameters
    ----------
    repo_id, repo_type, folder
        As for `download`.
    revision : str
        A commit, which is returned unchanged, or ``latest``.

    Returns
    -------
    str
        Commit, 40 hexadecimal digits.

    Raises
    ------
    InputError
        No such repository, no access, no connection, or the record is of another repository.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError

    if revision != "latest":
        return revision
    path = Path(folder) / ".latest.json"
    if not path.exists():
        try:
            commit = HfApi().repo_info(repo_id, repo_type=repo_type).sha
        except (HTTPError, OSError) as error:
            raise InputError(_one_line(error, repo_id, revision, repo_type)) from None
        write_json(path, {"repo_id": repo_id, "repo_type": repo_type, "commit": commit})
    record = read_json(path)
    _same_repository(record, repo_id, repo_type, folder)
    return record["commit"]


def published_source(path):
    """Return the folder of a published model, or its GGUF file.

    `path` is the manifest of its download (``download.json``), the config.json of a local folder, or a local
    GGUF file."""
    path = Path(path)
    if path.name != "download.json":
        return str(path if path.suffix == ".gguf" else path.parent)
    manifest = read_json(path)
    names = [entry["name"] for entry in manifest["files"]]
    return str(Path(manifest["folder"], names[0])) if names[0].endswith(".gguf") else manifest["folder"]


def download_model(repo_id, revision, *, folder, progress=None):
    """Download ``config.json`` and the weights of a model.

    The weights are the shards that the index names, or else ``model.safetensors``. Other weights in the
    repository, of an older sharding or in another format, are not downloaded.

    Parameters
    ----------
    repo_id, revision, folder, progress
        As for `download`.

    Returns
    -------
    list of dict
        As `download`.

    Raises
    ------
    InputError
        As `download`; also if the index names a shard that the repository lacks, or there is no config.json
        or no safetensors file.
    """
    folder = Path(folder)

    def get(*names):
        return download(
            repo_id,
            revision,
            repo_type="model",
            folder=folder,
            patterns=[glob.escape(name) for name in names],
            progress=progress,
        )

    listing = _entries(repo_id, revision, "model", folder)
    related = sorted(name for name in listing if name.endswith((".safetensors", ".bin", ".pth", ".json")))
    for needed in (("config.json",), (_INDEX, _WEIGHTS)):
        if not any(name in listing for name in needed):
            present = ", ".join(related[:8]) or "none of the kind"
            pickled = [name for name in related if name.endswith((".bin", ".pth"))]
            if pickled and _WEIGHTS in needed:
                present = f"{pickled[0]}, a pickle, which is never opened: convert it to safetensors"
            raise InputError(f"{repo_id}: no {' or '.join(needed)} at {revision}; it has {present}")
    if _INDEX not in listing:
        return get("config.json", _WEIGHTS)
    get("config.json", _INDEX)
    weight_map = read_json(folder / _INDEX)
    weight_map = weight_map.get("weight_map") if isinstance(weight_map, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{folder / _INDEX}: no weight_map; expected the file of each tensor")
    for tensor, shard in weight_map.items():
        if shard not in listing:
            place = f"puts tensor '{tensor}' in '{shard}'"
            raise InputError(f"{repo_id}: {_INDEX} {place}, which the repository lacks at {revision}")
    return get("config.json", _INDEX, *sorted(set(weight_map.values())))


def download(repo_id, revision, *, repo_type, folder, patterns=None, exclude=(), progress=None):
    """Download the files of a repository that match `patterns` into `folder`, and check every byte.

    Complete files are kept, so that a stopped download continues with the missing ones. After a broken
    connection a file is continued at its last byte, a few times, and after an answer 429 (too many requests)
    the hub is asked again at the time that it names. Eight files are fetched at a time. With
    ``HF_HUB_OFFLINE=1`` the hub is not asked, and the files of an earlier download are checked.

    Parameters
    ----------
    repo_id : str
        ``owner/name``.
    revision : str
        The commit, 40 hexadecimal digits. A branch or tag is refused: it can move.
    repo_type : {"dataset", "model"}
        Kind of repository.
    folder : path
        Folder for the files, which keep their paths in the repository. Use a different one for each commit.
    patterns, exclude : list of str, optional
        Globs of paths in the repository to take and to leave; ``*`` also matches ``/``. Default: take all.
    progress : class, optional
        tqdm class for the progress bars; default the library's own, which shows on a terminal only.

    Returns
    -------
    list of dict
        ``{name, path, bytes, sha256}`` for each file, by name: `name` is its path in the repository, `path`
        its path on this machine.

    Raises
    ------
    InputError
        One line: no such repository or commit, no access, no connection, offline and not downloaded yet, no
        file matches, too little space on the disk, or content that differs from the hub's listing.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HTTPError
    from huggingface_hub.utils import filter_repo_objects

    folder, choice = Path(folder), {"allow_patterns": patterns, "ignore_patterns": list(exclude)}
    listing = _entries(repo_id, revision, repo_type, folder)
    try:
        wanted = {name: listing[name] for name in sorted(filter_repo_objects(listing, **choice))}
        if not wanted:
            present = ", ".join(sorted(listing)[:5])
            raise InputError(
                f"{repo_id}: no file matches {patterns} less {list(exclude)}; it has {present} ..."
            )
        hashes = {name: _whole(folder / name, entry) for name, entry in wanted.items()}
        missing = [name for name in wanted if hashes[name] is None]
        if missing:
            if constants.HF_HUB_OFFLINE:
                lacking = (
                    f"{len(missing)} of {len(wanted)} files are not whole in {folder}, first {missing[0]}"
                )
                raise InputError(f"{repo_id}: offline (HF_HUB_OFFLINE) and {lacking}")
            for name in missing:  # the library would take a damaged file for a finished one
                (folder / name).unlink(missing_ok=True)
            _check_space(repo_id, folder, [wanted[name] for name in missing])
            snapshot_download(
                repo_id,
                repo_type=repo_type,
                revision=revision,
                local_dir=folder,
                tqdm_class=progress,
                **choice,
            )
    except (HTTPError, OSError) as error:
        raise InputError(_one_line(error, repo_id, revision, repo_type)) from None
    for name in missing:
        hashes[name] = _whole(folder / name, wanted[name])
        if hashes[name] is None:
            announced = f"what the hub announced for {repo_id} at {revision}: {wanted[name]}"
            raise InputError(f"{folder / name}: not {announced}; run it again")
    return [
        {"name": name, "path": str(folder / name), "bytes": entry["bytes"], "sha256": hashes[name]}
        for name, entry in wanted.items()
    ]


def _check_space(repo_id, folder, entries):
    """Raise an `InputError` if the missing files do not fit on the disk, less the parts of earlier tries."""
    begun = 0
    for entry in entries:
        parts = (folder / ".cache/huggingface/download").rglob(
            f"*.{entry['sha256'] or entry['blob']}.incomplete"
        )
        begun += min(sum(path.stat().st_size for path in parts), entry["bytes"])
    needed, free = sum(entry["bytes"] for entry in entries) - begun, shutil.disk_usage(folder).free
    if needed > free:
        space = f"{needed} bytes to download, but {free} bytes are free in {folder}"
        raise InputError(f"{repo_id}: {space}; make space and run it again")


def _entries(repo_id, revision, repo_type, folder):
    """Call `_listing` and turn its errors into one line."""
    from huggingface_hub.errors import HTTPError

    if not _COMMIT.fullmatch(revision):
        reason = "is not a commit (40 hexadecimal digits); a branch or tag can move"
        raise InputError(f"{repo_id}: revision '{revision}' {reason}")
    try:
        return _listing(repo_id, revision, repo_type, Path(folder))
    except (HTTPError, OSError) as error:
        raise InputError(_one_line(error, repo_id, revision, repo_type)) from None


def _same_repository(record, repo_id, repo_type, folder):
    if (record["repo_id"], record["repo_type"]) != (repo_id, repo_type):
        held = f"{record['repo_type']} {record['repo_id']}"
        raise InputError(f"{folder}: holds {held}, expected {repo_type} {repo_id}; give each a folder")


def _listing(repo_id, revision, repo_type, folder):
    """List {bytes, blob (git hash), sha256 (None for small files)} by path in the repository.

    A commit never changes, so the hub is asked once."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    path = folder / f".listing.{revision}.json"
    if not path.exists():
        tree = HfApi().list_repo_tree(repo_id, recursive=True, revision=revision, repo_type=repo_type)
        files = {
            entry.path: {
                "bytes": entry.size,
                "blob": entry.blob_id,
                "sha256": entry.lfs.sha256 if entry.lfs else None,
            }
            for entry in tree
            if isinstance(entry, RepoFile)
        }
        write_json(path, {"repo_id": repo_id, "repo_type": repo_type, "files": files})
    listing = read_json(path)
    _same_repository(listing, repo_id, repo_type, folder)
    for name in listing["files"]:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise InputError(f"{repo_id}: file '{name}' would leave its folder")
    return listing["files"]


def _whole(path, entry):
    """Return the sha256 of the file if it exists and agrees with the hub's listing, else None."""
    if not path.is_file() or path.stat().st_size != entry["bytes"]:
        return None
    sha256 = sha256_file(path)
    if entry["sha256"] is not None:
        return sha256 if sha256 == entry["sha256"] else None
    # The hub gives small files git's name only: the SHA-1 of a header and the content.
    blob = hashlib.sha1(b"blob %d\0" % entry["bytes"] + path.read_bytes(), usedforsecurity=False).hexdigest()
    return sha256 if blob == entry["blob"] else None


def _one_line(error, repo_id, revision, repo_type):
    from huggingface_hub import constants, errors

    repo, hub = f"{repo_type} {repo_id} at {revision}", constants.ENDPOINT
    if isinstance(error, errors.GatedRepoError):
        return f"{repo}: access is gated; accept its terms on the hub and set HF_TOKEN"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{repo}: no such {repo_type} on {hub}, or it is private and HF_TOKEN is not set"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repo}: the {repo_type} has no such commit"
    if constants.HF_HUB_OFFLINE and isinstance(
        error, errors.OfflineModeIsEnabled | errors.LocalEntryNotFoundError
    ):
        return f"{repo}: offline (HF_HUB_OFFLINE) and not downloaded before"
    reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return f"{repo}: the download from {hub} failed ({reason}); run it again to continue"
