"""Downloads from a Hugging Face hub at a pinned commit, checked against the hub's own hashes.

The library's environment variables hold (``HF_ENDPOINT``, ``HF_HUB_OFFLINE``, ``HF_TOKEN``, ...); it reads them when it is first imported.
"""

import glob
import hashlib
import re
import shutil
from pathlib import Path, PurePosixPath

from tokenbounds.errors import InputError
from tokenbounds.files import read_json, sha256_file, write_json

_COMMIT = re.compile(r"[0-9a-f]{40}")
_INDEX, _WEIGHTS = "model.safetensors.index.json", "model.safetensors"


def resolve(repo_id, revision, *, repo_type, folder):
    """The commit that a configured revision stands for.

    ``latest`` is asked of the hub once and recorded in `folder`: a download that is continued, or repeated, stays at its commit. Remove
    ``.latest.json`` there to ask again.

    Parameters
    ----------
    repo_id, repo_type, folder
        As for `download`.
    revision : str
        A commit, which is returned as it is, or ``latest``.

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


def download_model(repo_id, revision, *, folder, progress=None):
    """Download the weights of a model: ``config.json``, and the shards that its index names or else ``model.safetensors``.

    A repository may hold other weights beside them, of an older sharding or in another format: those stay there.

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
        As `download`; also when the index names a shard that the repository lacks, or there is no config.json or no safetensors.
    """
    folder = Path(folder)

    def get(*names):
        return download(
            repo_id, revision, repo_type="model", folder=folder, patterns=[glob.escape(name) for name in names], progress=progress
        )

    there = _entries(repo_id, revision, "model", folder)
    found = sorted(name for name in there if name.endswith((".safetensors", ".bin", ".pth", ".json")))
    for needed in (("config.json",), (_INDEX, _WEIGHTS)):
        if not any(name in there for name in needed):
            raise InputError(f"{repo_id}: no {' or '.join(needed)} at {revision}; it has {', '.join(found[:8]) or 'none of the kind'}")
    if _INDEX not in there:
        return get("config.json", _WEIGHTS)
    get("config.json", _INDEX)
    weight_map = read_json(folder / _INDEX)
    weight_map = weight_map.get("weight_map") if isinstance(weight_map, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{folder / _INDEX}: no weight_map; expected the file of each tensor")
    for tensor, shard in weight_map.items():
        if shard not in there:
            raise InputError(f"{repo_id}: {_INDEX} puts tensor '{tensor}' in '{shard}', which the repository lacks at {revision}")
    return get("config.json", _INDEX, *sorted(set(weight_map.values())))


def download(repo_id, revision, *, repo_type, folder, patterns=None, exclude=(), progress=None):
    """Download the files of a repository that match `patterns` into `folder`, and check every byte.

    Files that are already there and whole are kept, so that a stopped download continues with the files it lacks; a connection that breaks
    within a file is continued where it broke, a few times, and a hub that answers 429 (too many requests) is asked again when it says so.
    Eight files are fetched at a time. With ``HF_HUB_OFFLINE=1`` nothing is asked of the hub: what was downloaded before is checked.

    Parameters
    ----------
    repo_id : str
        ``owner/name``.
    revision : str
        The commit, 40 hexadecimal digits. A branch or tag is refused: it can move.
    repo_type : {"dataset", "model"}
        Kind of repository.
    folder : path
        Where the files go, under their paths in the repository. Use a folder of its own for each commit.
    patterns, exclude : list of str, optional
        Globs of paths in the repository to take and to leave; ``*`` also matches ``/``. Default: take all.
    progress : class, optional
        tqdm class for the progress bars; default the library's own, which shows on a terminal only.

    Returns
    -------
    list of dict
        ``{name, path, bytes, sha256}`` for each file, by name: `name` is its path in the repository, `path` where it is here.

    Raises
    ------
    InputError
        One line: no such repository or commit, no access, no connection, offline and not there yet, no file matches, too little space on
        the disk, or content that differs from what the hub announced.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HTTPError
    from huggingface_hub.utils import filter_repo_objects

    folder, choice = Path(folder), {"allow_patterns": patterns, "ignore_patterns": list(exclude)}
    listing = _entries(repo_id, revision, repo_type, folder)
    try:
        wanted = {name: listing[name] for name in sorted(filter_repo_objects(listing, **choice))}
        if not wanted:
            raise InputError(f"{repo_id}: no file matches {patterns} less {list(exclude)}; it has {', '.join(sorted(listing)[:5])} ...")
        found = {name: _whole(folder / name, entry) for name, entry in wanted.items()}
        missing = [name for name in wanted if found[name] is None]
        if missing:
            if constants.HF_HUB_OFFLINE:
                lacking = f"{len(missing)} of {len(wanted)} files are not whole in {folder}, first {missing[0]}"
                raise InputError(f"{repo_id}: offline (HF_HUB_OFFLINE) and {lacking}")
            for name in missing:  # the library would take a damaged file for a finished one
                (folder / name).unlink(missing_ok=True)
            _check_space(repo_id, folder, [wanted[name] for name in missing])
            snapshot_download(repo_id, repo_type=repo_type, revision=revision, local_dir=folder, tqdm_class=progress, **choice)
    except (HTTPError, OSError) as error:
        raise InputError(_one_line(error, repo_id, revision, repo_type)) from None
    for name in missing:
        found[name] = _whole(folder / name, wanted[name])
        if found[name] is None:
            raise InputError(f"{folder / name}: not what the hub announced for {repo_id} at {revision}: {wanted[name]}; run it again")
    return [{"name": name, "path": str(folder / name), "bytes": entry["bytes"], "sha256": found[name]} for name, entry in wanted.items()]


def _check_space(repo_id, folder, entries):
    """The files that are missing must fit on the disk; what an earlier try left of them is there already."""
    begun = 0
    for entry in entries:
        parts = (folder / ".cache/huggingface/download").rglob(f"*.{entry['sha256'] or entry['blob']}.incomplete")
        begun += min(sum(path.stat().st_size for path in parts), entry["bytes"])
    needed, free = sum(entry["bytes"] for entry in entries) - begun, shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(f"{repo_id}: {needed} bytes to download, but {free} bytes are free in {folder}; make space and run it again")


def _entries(repo_id, revision, repo_type, folder):
    """`_listing`, with errors of one line."""
    from huggingface_hub.errors import HTTPError

    if not _COMMIT.fullmatch(revision):
        raise InputError(f"{repo_id}: revision '{revision}' is not a commit (40 hexadecimal digits); a branch or tag can move")
    try:
        return _listing(repo_id, revision, repo_type, Path(folder))
    except (HTTPError, OSError) as error:
        raise InputError(_one_line(error, repo_id, revision, repo_type)) from None


def _same_repository(record, repo_id, repo_type, folder):
    if (record["repo_id"], record["repo_type"]) != (repo_id, repo_type):
        raise InputError(f"{folder}: holds {record['repo_type']} {record['repo_id']}, expected {repo_type} {repo_id}; give each a folder")


def _listing(repo_id, revision, repo_type, folder):
    """Path in the repository: {bytes, blob (git hash), sha256 (None for small files)}. A commit never changes, so it is asked for once."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    path = folder / f".listing.{revision}.json"
    if not path.exists():
        tree = HfApi().list_repo_tree(repo_id, recursive=True, revision=revision, repo_type=repo_type)
        files = {
            entry.path: {"bytes": entry.size, "blob": entry.blob_id, "sha256": entry.lfs.sha256 if entry.lfs else None}
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
    """sha256 of the file if it is there and is what the hub announced, else None."""
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

    what = f"{repo_type} {repo_id} at {revision}"
    if isinstance(error, errors.GatedRepoError):
        return f"{what}: access is gated; accept its terms on the hub and set HF_TOKEN"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{what}: no such {repo_type} on {constants.ENDPOINT}, or it is private and HF_TOKEN is not set"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{what}: the {repo_type} has no such commit"
    if constants.HF_HUB_OFFLINE and isinstance(error, errors.OfflineModeIsEnabled | errors.LocalEntryNotFoundError):
        return f"{what}: offline (HF_HUB_OFFLINE) and not downloaded before"
    reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return f"{what}: the download from {constants.ENDPOINT} failed ({reason}); run it again to continue"
