"""Every public name of `tokenbounds.bounds` has a runnable example, and the examples are right."""

import doctest
import importlib
import pkgutil

import pytest

from tokenbounds import bounds

MODULES = [f"tokenbounds.bounds.{module.name}" for module in pkgutil.iter_modules(bounds.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples_are_right(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


# Strings are no functions and have no docstring; `Basis` is shown by the example of `Method`.
@pytest.mark.parametrize(
    "name", sorted(name for name in bounds.__all__ if not name.isupper() and name != "Basis")
)
def test_every_public_name_has_an_example(name):
    assert doctest.DocTestFinder().find(getattr(bounds, name), name)[0].examples
