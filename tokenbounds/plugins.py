"""Plugins: methods, codecs and model families that other installed packages add through entry points.

A registry of this package holds its own parts by name; `plugins` adds those of other packages. A registry may
also name a part by a string (``"package.module:Class"``), which `load` resolves when the part is needed:
naming it imports nothing. See docs/extending.md.
"""

import functools
import importlib
import importlib.metadata

from tokenbounds.errors import InputError


def load(name):
    """Import the object that a string names.

    Parameters
    ----------
    name : str
        ``"package.module:attribute"``.

    Returns
    -------
    object

    Raises
    ------
    InputError
        The module or the attribute does not exist.
    """
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise InputError(f"'{name}' cannot be loaded ({error}); expected package.module:name") from None


@functools.cache
def plugins(group):
    """Load the parts that installed packages add under an entry point group.

    Parameters
    ----------
    group : str
        ``tokenbounds.methods``, ``tokenbounds.codecs`` or ``tokenbounds.families``.

    Returns
    -------
    dict of str to object
        Parts by the name of their entry point.

    Raises
    ------
    InputError
        A part cannot be loaded, or two packages use one name.
    """
    parts = {}
    for entry in importlib.metadata.entry_points(group=group):
        package = entry.dist.name if entry.dist else "an installed package"
        place = f"entry point '{entry.name}' of {group}"
        if entry.name in parts:
            raise InputError(f"{place}: {package} and another package add it; expected one")
        try:
            parts[entry.name] = entry.load()
        except Exception as error:  # whatever the other package's code raises
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise InputError(f"{place}: {package} fails ({reason:.120})") from None
    return parts


def with_plugins(group, own):
    """Join the parts of this package with those of others.

    Parameters
    ----------
    group : str
        As for `plugins`.
    own : dict of str to object
        Parts of this package by name.

    Returns
    -------
    dict of str to object
        `own`, then the parts of other packages.

    Raises
    ------
    InputError
        As `plugins`; also if a package uses a name of this one.
    """
    added = plugins(group)
    if taken := own.keys() & added.keys():
        raise InputError(f"entry point '{min(taken)}' of {group}: the name is taken; expected another one")
    return {**own, **added}


def modules(group):
    """List the parts that installed packages add, as ``"package.module:attribute"``; nothing is imported."""
    return sorted(entry.value for entry in importlib.metadata.entry_points(group=group))
