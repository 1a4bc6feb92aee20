"""Our packages have plain names: say so when another distribution's package of the same name is found first."""

import importlib.util
import os
import sys
from pathlib import Path

from mtrl.errors import ForeignPackage

_SIBLINGS = ("agents", "envs")


def see_working_directory() -> None:
    """Let Python find the modules of the folder that a command is given in, wherever the command itself is.

    The folder comes last, not first as with ``python -m``: no file in it can take the place of a library's module.
    """
    if not {os.getcwd(), ""} & set(sys.path):
        sys.path.append(os.getcwd())


def refuse_foreign_packages() -> None:
    """Check that Python finds this toolkit's packages, before any of them is imported.

    :raises ForeignPackage: naming the foreign package and where it is
    """
    home = Path(__file__).resolve().parent.parent
    for name in _SIBLINGS:
        spec = importlib.util.find_spec(name)
        if spec is None:
            raise ForeignPackage(f"the package '{name}' of this toolkit is missing: it should be in {home}.")
        places = [Path(place).resolve() for place in spec.submodule_search_locations or [spec.origin or "."]]
        if home / name not in places:
            raise ForeignPackage(
                f"the package '{name}' in {places[0].parent} hides this toolkit's own in {home}: "
                "uninstall that distribution, or use a virtual environment of its own for this toolkit."
            )
