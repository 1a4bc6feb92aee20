"""Embeddings of the tasks from a file: ``network.task_embeddings=FILE``, an ``.npy`` of numbers ``[K, n]``."""

from pathlib import Path

import numpy as np

from mtrl.errors import ConfigError

SETTING = "network.task_embeddings"
TaskEmbeddings = tuple[tuple[float, ...], ...]


def read_task_embeddings(path: str | Path) -> TaskEmbeddings:
    """The rows of a file; the policy, which knows K, checks their number.

    :raises ConfigError: if there is no such file, or it holds anything but rows of finite numbers
    """
    try:
        found = np.load(path, allow_pickle=False)
    except OSError as error:
        raise ConfigError(f"{SETTING} must be an .npy file, '{path}': {error.strerror or error}.") from error
    except (ValueError, EOFError) as error:
        raise ConfigError(f"{SETTING} must be an .npy file of numbers, '{path}' is none ({error}).") from error
    if not isinstance(found, np.ndarray) or found.ndim != 2 or found.dtype.kind not in "fiu" or not found.size:
        kind = f"{found.dtype} {list(found.shape)}" if isinstance(found, np.ndarray) else "an archive"
        raise ConfigError(f"{SETTING} must hold numbers [K, n], '{path}' holds {kind}.")
    wrong = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if wrong.size:
        raise ConfigError(f"{SETTING} must be finite numbers, row {wrong[0]} of '{path}' has others.")
    return tuple(tuple(row) for row in found.astype(np.float32).tolist())
