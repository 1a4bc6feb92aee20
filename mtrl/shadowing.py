"""Our packages have plain names: say so when another package or module of the same name is found first."""

import importlib.util
from pathlib import Path

from mtrl.errors import ForeignPackage

_SIBLINGS = ("agents", "envs")


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
                f"'{places[0]}' hides the package '{name}' of this toolkit in {home}: {_cure(places[0])}."
            )


def _cure(place: Path) -> str:
    """What helps against a foreign package: one that is installed can go, one beside a script is the user's own."""
    if {"site-packages", "dist-packages"} & set(place.parts):
        return "uninstall that distribution, or use a virtual environment of its own for this toolkit"
    if (place.parent / "mtrl" / Path(__file__).name).is_file():
        return "that is another checkout of this toolkit: leave one of the two on the path"
    return f"rename yours, to my_{place.name} for example"
