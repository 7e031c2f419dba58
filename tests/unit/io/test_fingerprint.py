"""Fingerprints: the edits that change them, and the modules that they cover."""

import os
import subprocess
import sys

import pytest

from tokenbounds.errors import InputError
from tokenbounds.io import fingerprint as module
from tokenbounds.io.fingerprint import LEFT_OUT, closure, fingerprint, full_name

NAME = "package_beside_tokenbounds"  # a package of another name, as a plugin is
SOURCE = '''"""Module."""

import math

LIMIT = 3


class Shape:
    """A shape."""

    sides = 4

    def area(self, width, height=1.0):
        """Compute the area."""
        return width * height


def root(x):
    """Compute a square root.

    More.
    """
    name = "not a docstring"
    return math.sqrt(x), name
'''


def forget():
    """Forget the modules read so far, as a new process would."""
    for cached in (module._path, module._tree, module._imports, module._code_hash):
        cached.cache_clear()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Write modules of a package on sys.path, by name with their text."""
    monkeypatch.syspath_prepend(tmp_path)
    forget()

    def write(**modules):
        folder = tmp_path / NAME
        folder.mkdir(exist_ok=True)
        for name, text in {"__init__": "", **modules}.items():
            path = folder / f"{name.replace('__in__', '/')}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        forget()

    yield write
    forget()


# ---------------------------------------------------------------- edits


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""Module."""', '"""Another text."""'),
        ('"""A shape."""', '"""A figure,\n\n    perhaps."""'),
        ('"""Compute the area."""', "'Area.'"),
        ("    More.\n", ""),
        ("LIMIT = 3", "LIMIT = 3  # sides\n\n# a comment of its own"),
        ("LIMIT = 3", "LIMIT = (\n    0x3\n)"),
        ("    sides = 4", "\n\n    sides     =4"),
        ("(self, width, height=1.0)", "(\n        self,\n        width,\n        height=1.00,\n    )"),
        ('name = "not a docstring"', "name = 'not a ' 'docstring'"),
        ("return math.sqrt(x), name", "return (math.sqrt(x), name,)"),
    ],
)
def test_comments_docstrings_and_layout_do_not_count(package, old, new):
    assert SOURCE.count(old) == 1
    package(part=SOURCE)
    before = fingerprint(f"{NAME}.part")
    package(part=SOURCE.replace(old, new))
    assert fingerprint(f"{NAME}.part") == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("LIMIT = 3", "LIMIT = 4"),
        ("LIMIT = 3", "LIMIT = 3.0"),
        ("LIMIT = 3", "LIMIT = 3\nOTHER = 3"),
        ("height=1.0", "height=2.0"),
        ("width * height", "height * width"),
        ("class Shape:", "class Shape(object):"),
        ("def root(x):", "@staticmethod\ndef root(x):"),
        ("not a docstring", "another string"),
        ("import math", "import cmath as math"),
        ('    name = "not a docstring"\n', '    name = "not a docstring"\n    "a string statement"\n'),
    ],
)
def test_code_counts(package, old, new):
    assert SOURCE.count(old) == 1
    package(part=SOURCE)
    before = fingerprint(f"{NAME}.part")
    package(part=SOURCE.replace(old, new))
    assert fingerprint(f"{NAME}.part") != before


def test_code_of_imported_modules_counts(package):
    modules = {"top": "from . import below\n", "below": "x = 1\n", "beside": "y = 1\n"}
    package(**modules)
    before = fingerprint(f"{NAME}.top")
    package(**modules | {"beside": "y = 2\n"})
    assert fingerprint(f"{NAME}.top") == before
    package(**modules | {"below": "x = 2\n"})
    assert fingerprint(f"{NAME}.top") != before
    package(**modules | {"__init__": "z = 2\n"})  # importing a module runs its package first
    assert fingerprint(f"{NAME}.top") != before


def test_a_fingerprint_is_one_of_a_set_of_modules(package):
    package(a="x = 1\n", b="y = 1\n")
    a, b = f"{NAME}.a", f"{NAME}.b:Part"
    both = fingerprint(a, b)
    assert len(both) == 16 and int(both, 16) >= 0
    assert fingerprint(b, a, a) == both and fingerprint(a) != both != fingerprint(b)


def test_another_process_gives_the_same_fingerprint(root):
    program = "from tokenbounds.io.fingerprint import fingerprint; print(fingerprint('randomness'))"
    environment = os.environ | {"PYTHONPATH": str(root), "PYTHONHASHSEED": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == fingerprint("randomness")


# ---------------------------------------------------------------- modules covered


@pytest.mark.parametrize(
    ("statement", "names"),
    [
        ("import {0}.one", {"one"}),
        ("import {0}.one as other", {"one"}),
        ("import {0}.one, {0}.two", {"one", "two"}),
        ("from {0} import one", {"one"}),
        ("from {0}.one import x", {"one"}),
        ("from {0}.one import *", {"one"}),
        ("from . import one, two", {"one", "two"}),
        ("from .one import x", {"one"}),
        ("def function():\n    from .one import x\n    return x", {"one"}),
        ("class A:\n    def method(self):\n        import {0}.two", {"two"}),
        ("if False:\n    from . import one", {"one"}),
        ("from .inner import deep", {"inner", "inner.deep", "inner.up"}),
        ("import {0}.inner.deep", {"inner", "inner.deep", "inner.up"}),
        ("import json, numpy, tokenbounds_of_another", set()),
        ("'{0}.one'", set()),
        ("PARTS = {{'one': '{0}.one:x'}}", set()),
        ("import importlib\nimportlib.import_module('{0}.one')", set()),
    ],
)
def test_imports_are_followed_and_strings_are_not(package, statement, names):
    package(
        top=statement.format(NAME) + "\n",
        one="x = 1\n",
        two="y = 1\n",
        inner__in____init__="from .up import z\n",
        inner__in__deep="from .. import inner\n",
        inner__in__up="z = 1\n",
    )
    assert closure(f"{NAME}.top") == {NAME, f"{NAME}.top", *(f"{NAME}.{name}" for name in names)}


def test_modules_are_not_imported(package):
    package(top="from . import below\nraise RuntimeError\n", below="import no_such_module\n")
    assert closure(f"{NAME}.top:Part") == {NAME, f"{NAME}.top", f"{NAME}.below"}
    assert not [name for name in sys.modules if name.startswith(NAME)]


def test_a_module_without_a_package(package, tmp_path):
    (tmp_path / f"{NAME}_single.py").write_text("x = 1\n")
    assert closure(f"{NAME}_single") == {f"{NAME}_single"}


def test_another_package_is_followed_into_this_one_but_not_the_other_way(package):
    package(top="import tokenbounds.randomness\nfrom tokenbounds.io.files import read_json\n")
    assert closure(f"{NAME}.top") == {NAME, f"{NAME}.top", "tokenbounds", "tokenbounds.randomness"}
    assert closure("randomness") == {"tokenbounds", "tokenbounds.randomness"}


def test_a_training_job_covers_its_loop_and_no_family():
    """Families are named by strings; the rule adds that of its model."""
    covered = closure("training.loop")
    assert {"tokenbounds.training.loop", "tokenbounds.models.registry", "tokenbounds.corpus.store"} <= covered
    assert not {"tokenbounds.models.gpt", "tokenbounds.models.markov"} & covered
    assert "tokenbounds.models.markov" in closure("training.loop", "models.markov:MarkovChain")


def test_modules_that_decide_no_number_are_left_out():
    covered = closure("training.job", "scoring.parts", "codecs.encode", "certificates.make", "reports.tables")
    assert len(covered) > 30
    assert not [name for name in covered for room in LEFT_OUT if f"{name}.".startswith(f"{room}.")]
    assert "tokenbounds.io.files" in closure("io.files")  # unless a rule names one


# ---------------------------------------------------------------- names


def test_full_names():
    assert full_name("training.loop") == full_name("tokenbounds.training.loop") == "tokenbounds.training.loop"
    assert full_name("models.markov:MarkovChain") == "tokenbounds.models.markov"
    assert full_name("codecs") == "tokenbounds.codecs"
    assert full_name("other_package.part:Class") == "other_package.part"


@pytest.mark.parametrize("name", ["training.lop", "no_such_package", "tokenbounds.absent", f"{NAME}.absent"])
def test_an_unknown_module_is_one_line(package, name):
    package()
    message = f"^module '{name}' does not exist; expected one whose code decides a result$"
    with pytest.raises(InputError, match=message):
        fingerprint(name, "randomness")
