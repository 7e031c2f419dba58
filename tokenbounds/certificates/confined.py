"""Files of a run that a stranger made: only regular files in the run's own folder are opened.

A link could lead anywhere, a pipe or device need not end, and whoever checks a certificate must not be made
to read what is not part of the run."""

import os
import stat
from pathlib import Path

from tokenbounds.errors import InputError
from tokenbounds.io.files import file_size, read_json

MOST_MESSAGE_BYTES = 1 << 30


def check_run(run, certificate, stem):
    """Refuse a run in which what a certificate is checked against is not made of regular files of the run.

    Parameters
    ----------
    run : Path
        Folder of the run, resolved.
    certificate : dict
    stem : str
        Name of the certificate's file without ``.json``: its bounds are made anew under this name.

    Raises
    ------
    InputError
        A link that leads out of the run or out of the folder of published files that a message's sidecar
        names, a link to a folder, a pipe, a device, or a message of more than `MOST_MESSAGE_BYTES`. What is
        not there at all is for others to miss.
    """
    messages = {Path(certificate["hypothesis"]["message"]["path"]).name, _message_of(stem)}
    files = [f"messages/{name}" for name in messages]
    files += [f"messages/{name[:-4]}.json" for name in messages]
    files += [f"sanity_checks/{name[:-4]}.json" for name in messages]
    folders = {"tokens", f"risk/{stem}", *(str(Path(item["path"]).parent) for item in certificate["records"])}
    for name in sorted(files):
        check_place(run, run / name)
    for name in sorted(folders):
        _check_tree(run, run / name)
    for name in messages:
        path = run / "messages" / name
        if path.is_file() and (size := file_size(path)) > MOST_MESSAGE_BYTES:
            raise InputError(f"{path}: {size} bytes; expected at most {MOST_MESSAGE_BYTES} of a message")
        _check_published(run, path.with_suffix(".json"))


def _check_published(run, sidecar):
    """Refuse a folder of published files, named by a message's sidecar, with links that lead out of it; into
    the ``blobs`` of a Hugging Face cache they may."""
    content = read_json(sidecar) if sidecar.is_file() else None
    name = content.get("folder") if isinstance(content, dict) else None
    if not isinstance(name, str) or "\0" in name or len(run.parents) < 2:
        return  # no published files, or none that could be found
    folder = (run.parents[1] / name).resolve()
    for path in folder.iterdir() if folder.is_dir() else ():
        target = Path(os.path.realpath(path))
        if not (target.is_relative_to(folder) or target.parent == folder.parent.parent / "blobs"):
            raise InputError(f"{path}: a link to {target}, outside the folder of published files")


def _message_of(stem):
    return f"{'.'.join(stem.split('.')[:2])}.bin"


def _check_tree(run, folder):
    """Check a folder, all that is in it, and how one comes there from the run."""
    check_place(run, folder)
    if not folder.is_dir():
        return
    for parent, folders, files in os.walk(folder, onerror=_raise):
        for name in (*folders, *files):
            _check_entry(run, Path(parent, name))


def _raise(error):
    raise InputError(f"{error.filename}: cannot be read ({error.strerror})")


def check_place(run, path):
    """Refuse a file or folder in a run, by an `InputError`, if it or a folder on the way to it is a link that
    leads out of the run, or no regular file."""
    steps = [path, *(parent for parent in path.parents if parent.is_relative_to(run) and parent != run)]
    for step in reversed(steps):
        if os.path.lexists(step):
            _check_entry(run, step)


def _check_entry(run, path):
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        target = Path(os.path.realpath(path))
        if not target.is_relative_to(run):
            raise InputError(f"{path}: a link to {target}, outside the run's folder; expected a file in it")
        if target.is_dir():
            raise InputError(f"{path}: a link to a folder; expected a file or a folder")
        mode = target.stat().st_mode if target.exists() else stat.S_IFREG
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise InputError(f"{path}: a pipe or device; expected a file")
