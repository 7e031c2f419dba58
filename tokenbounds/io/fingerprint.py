"""Fingerprints of code, by which Snakemake sees that an edit of the package makes a result stale.

A rule names the modules that its job enters by; everything that they import follows from the syntax.
Comments, docstrings and layout do not count, nor do modules that decide no number (`LEFT_OUT`). Registries
name their parts by strings, which are not followed: the rule names the parts that its job uses. ::

    training.loop
      +-- import training.optimizer                      followed, also inside functions
      |     +-- ...
      +-- import io.files                                left out
      +-- "tokenbounds.models.markov:MarkovChain"        a string: not followed
"""

import ast
import functools
import hashlib
import importlib.util
from pathlib import Path

from tokenbounds.errors import InputError

PACKAGE = "tokenbounds"
# They read, write and check. A job gets their results as parameters and inputs, whose changes Snakemake sees.
LEFT_OUT = ("tokenbounds.config", "tokenbounds.errors", "tokenbounds.io", "tokenbounds.plugins")


def fingerprint(*modules):
    """Hash the code of some modules and of everything that they import.

    Parameters
    ----------
    *modules : str
        Modules of this package without its name (``"training.loop"``), or of another one in full, perhaps
        with an attribute (``"package.module:Class"``), which is ignored.

    Returns
    -------
    str
        16 hexadecimal digits; they change with the code of the modules and of their static imports, and with
        nothing else.

    Raises
    ------
    InputError
        A module does not exist.
    """
    digest = hashlib.sha256()
    for name in sorted(closure(*modules)):
        digest.update(f"{name} {_code_hash(name)}\n".encode())
    return digest.hexdigest()[:16]


def closure(*modules):
    """List the modules that some modules import, themselves included, except `LEFT_OUT`.

    Only modules of this package and of the packages named in `modules` are followed; imports inside functions
    count.

    Parameters
    ----------
    *modules : str
        As for `fingerprint`.

    Returns
    -------
    frozenset of str
        Full names of the modules.

    Raises
    ------
    InputError
        A module does not exist.
    """
    names = [full_name(module) for module in modules]
    packages = frozenset({PACKAGE, *(name.partition(".")[0] for name in names)})
    reached, waiting = set(), list(names)
    while waiting:
        name = waiting.pop()
        if name in reached or (_is_left_out(name) and name not in names):
            continue
        reached.add(name)
        waiting += _imports(name, packages)
        if "." in name:  # importing a module runs its package first
            waiting.append(name.rpartition(".")[0])
    return frozenset(reached)


def full_name(module):
    """Return the dotted name of a module with its package, without an attribute behind a colon."""
    module = module.partition(":")[0]
    is_full = module.partition(".")[0] == PACKAGE or _own_path(f"{PACKAGE}.{module}") is None
    return module if is_full else f"{PACKAGE}.{module}"


def _is_left_out(name):
    return any(name == room or name.startswith(f"{room}.") for room in LEFT_OUT)


def _own_path(name):
    """Return the file of a module of this package, or None."""
    base = Path(__file__).resolve().parents[2].joinpath(*name.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


@functools.cache
def _path(name):
    if path := _own_path(name):
        return path
    top, *parts = name.split(".")
    spec = importlib.util.find_spec(top)  # the outermost package is found without importing it
    for location in (spec.submodule_search_locations or []) if spec else []:
        base = Path(location).joinpath(*parts)
        for path in (base.with_suffix(".py"), base / "__init__.py"):
            if path.is_file():
                return path
    if spec and not parts and spec.origin and spec.origin.endswith(".py"):
        return Path(spec.origin)
    return None


@functools.cache
def _tree(name):
    path = _path(name)
    if path is None:
        raise InputError(f"module '{name}' does not exist; expected one whose code decides a result")
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@functools.cache
def _imports(name, packages):
    """List the modules of `packages` that a module imports."""
    names = set()
    for node in ast.walk(_tree(name)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = _base(name, node)
            inner = {f"{base}.{alias.name}" for alias in node.names}
            names |= {base} | {
                module for module in inner if module.partition(".")[0] in packages and _path(module)
            }
    return frozenset(module for module in names if module.partition(".")[0] in packages)


def _base(name, node):
    """Return the module that a ``from ... import`` names, with a relative name resolved."""
    if not node.level:
        return node.module
    package = name.split(".") if _path(name).name == "__init__.py" else name.split(".")[:-1]
    return ".".join([*package[: len(package) - node.level + 1], *([node.module] if node.module else [])])


@functools.cache
def _code_hash(name):
    """Hash the syntax tree of a module, in which ``...`` stands for every docstring."""
    tree = _tree(name)
    for node in ast.walk(tree):
        if isinstance(
            node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        ) and ast.get_docstring(node, clean=False):
            node.body[0] = ast.Expr(ast.Constant(...))
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()
