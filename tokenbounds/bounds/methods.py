"""Registry of all bounds: a new one is a `Method` and its name in `METHODS`, or an entry point.

Other packages add methods under the entry point group ``tokenbounds.methods``; the entry's name is the
method's, its value a subclass of `tokenbounds.bounds.Method`.
"""

from tokenbounds.bounds.azuma_bounds import AzumaCertified, AzumaFormula, AzumaRigorous
from tokenbounds.bounds.betting_bounds import Betting
from tokenbounds.bounds.freedman_bounds import Freedman
from tokenbounds.bounds.interface import Method
from tokenbounds.errors import InputError
from tokenbounds.plugins import with_plugins

GROUP = "tokenbounds.methods"


def installed_methods(*own):
    """Instantiate the methods `own`, then those of other installed packages.

    Returns
    -------
    dict of str to Method

    Raises
    ------
    InputError
        An entry point cannot be loaded, is not a `Method` of its name, or its name is taken.
    """
    methods = with_plugins(GROUP, {method.name: method for method in own})
    for name, method in methods.items():
        is_method = isinstance(method, type) and issubclass(method, Method)
        if not is_method or getattr(method, "name", None) != name:
            raise InputError(f"entry point '{name}' of {GROUP}: {method!r}; expected a Method with that name")
    return {name: method() for name, method in methods.items()}


OWN = (AzumaFormula, AzumaCertified, AzumaRigorous, Freedman, Betting)
METHODS = installed_methods(*OWN)
ADDED = METHODS.keys() - {method.name for method in OWN}  # by other packages: not installed everywhere
REFERENCE = METHODS[AzumaFormula.name]  # savings are relative to it
HEADLINE = METHODS[Betting.name]  # ranks the candidates of a row; its savings are shown


def label_of(name):
    """Return the label of a method; its name if it is not installed here (a certificate from elsewhere)."""
    return METHODS[name].label if name in METHODS else name
