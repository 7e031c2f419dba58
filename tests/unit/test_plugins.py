"""Plugins: parts of installed packages, by name, and one line for a part that cannot be used."""

import json

import pytest

from tokenbounds.errors import InputError
from tokenbounds.plugins import load, plugins, with_plugins

GROUP = "tokenbounds.parts_of_this_test"


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install packages that add entry points: the package's name, and its parts by name."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(package, parts, group=GROUP):
        folder = tmp_path / f"{package}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = [f"{name} = {part}" for name, part in parts.items()]
        (folder / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines, ""]))

    plugins.cache_clear()
    yield install
    plugins.cache_clear()


def test_load():
    assert load("json:dumps") is json.dumps


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no_such_module:Part", "No module named 'no_such_module'"),
        ("json:absent", "module 'json' has no attribute 'absent'"),
        ("json", ".*"),
    ],
)
def test_a_part_that_cannot_be_loaded_is_one_line(name, reason):
    with pytest.raises(
        InputError, match=rf"^'{name}' cannot be loaded \({reason}\); expected package.module:name$"
    ):
        load(name)


def test_parts_of_installed_packages(install):
    install("first", {"dumps": "json:dumps", "loads": "json:loads"})
    install("second", {"sqrt": "math:sqrt"})
    install("third", {"cos": "math:cos"}, group="tokenbounds.another_group")
    import math

    assert plugins(GROUP) == {"dumps": json.dumps, "loads": json.loads, "sqrt": math.sqrt}
    assert with_plugins(GROUP, {"own": 1}) == {"own": 1, **plugins(GROUP)}
    assert next(iter(with_plugins(GROUP, {"own": 1}))) == "own"


def test_no_packages():
    assert plugins(GROUP) == {} and with_plugins(GROUP, {"own": 1}) == {"own": 1}


def test_a_part_that_fails_names_its_package(install, tmp_path):
    (tmp_path / "module_that_fails.py").write_text("raise ZeroDivisionError('one\\ntwo' + 200 * '.')\n")
    install("broken", {"part": "module_that_fails:Part"})
    with pytest.raises(InputError) as error:
        plugins(GROUP)
    line = str(error.value)
    assert line.startswith(f"entry point 'part' of {GROUP}: broken fails (ZeroDivisionError: one two")
    assert len(line) < 250 and "\n" not in line


def test_names_are_used_once(install):
    install("first", {"part": "json:dumps"})
    with pytest.raises(InputError) as error:
        with_plugins(GROUP, {"part": 1})
    assert str(error.value) == f"entry point 'part' of {GROUP}: the name is taken; expected another one"
    install("second", {"part": "json:loads"})
    plugins.cache_clear()
    with pytest.raises(InputError) as error:
        plugins(GROUP)
    assert str(error.value) in {
        f"entry point 'part' of {GROUP}: {package} and another package add it; expected one"
        for package in ("first", "second")
    }
