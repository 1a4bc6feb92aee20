"""Places that are to be written to: looked at before anything is computed, so that nobody waits for an error."""

import tempfile
from pathlib import Path

from mtrl.errors import ConfigError


def require_folder(folder: Path, setting: str) -> None:
    """Check that files can be written in a folder, which need not exist yet; nothing is left behind.

    :param folder: will be made, with its parents
    :param setting: chooses another place, as a user gives it: ``--out``
    :raises ConfigError: naming the folder, the reason and the setting
    """
    there = _nearest_existing(folder)
    try:
        if not there.is_dir():
            raise NotADirectoryError(20, f"'{there}' is a file")
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise ConfigError(
            f"Nothing can be written in '{folder}' ({error.strerror or error}): choose another place with {setting}."
        ) from error


def require_file(path: Path, setting: str) -> None:
    """Check that a file can be written, whether it exists or not.

    :param setting: chooses another place, as a user gives it
    :raises ConfigError: naming the place, the reason and the setting
    """
    if path.is_dir():
        raise ConfigError(f"{setting} must be a file to write, found the folder '{path}'.")
    require_folder(path.parent, setting)
    if path.exists():
        try:
            with path.open("ab"):
                pass
        except OSError as error:
            raise ConfigError(
                f"'{path}' cannot be written ({error.strerror or error}): choose another file with {setting}."
            ) from error


def _nearest_existing(path: Path) -> Path:
    while not path.exists() and path != path.parent:
        path = path.parent
    return path
