"""Grids of parameters of which `make test` takes some members, and `make test-all` takes all."""

import pytest


def grid(names, values, always=None, every=None, **options):
    """As `pytest.mark.parametrize`; members that `make test` leaves out are marked as `exhaustive`.

    :param names: of the parameters, as `parametrize` takes them.
    :param values: all members of the grid.
    :param always: the members that `make test` takes;
    :param every: or take the first, and then every so many-th.
    """
    values = list(values)
    taken = values[::every] if always is None else list(always)
    missing = [value for value in taken if value not in values]
    assert not missing, f"not in the grid of {names}: {missing}"
    several = not isinstance(names, str)
    members = [value if value in taken else _left_out(value, several) for value in values]
    return pytest.mark.parametrize(names, members, **options)


def _left_out(value, several):
    return pytest.param(*(value if several else (value,)), marks=pytest.mark.exhaustive)
