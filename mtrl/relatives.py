"""Runs in other folders that could be resumed: without ``run_dir``, another length or evaluation is another folder."""

import re
import shlex
from collections.abc import Iterator

from mtrl.checkpoint import CheckpointStore
from mtrl.config import RunConfig
from mtrl.run_folder import CHECKPOINTS, FAILED, FINISHED, INTERRUPTED, RunFolder
from mtrl.run_state import listed, sorted_changes

_CALLED = {INTERRUPTED: "a stopped", FAILED: "a failed", FINISHED: "a finished"}


def resumable_elsewhere(config: RunConfig, folder: RunFolder, num_tasks: int) -> Iterator[str]:
    """A sentence for every run that differs from a new one only in its length or in how it is measured.

    :param config: of the new run
    :param folder: that it gets
    :param num_tasks: K
    """
    digits = config.identity()
    if config.run_dir is not None or not folder.path.name.endswith(digits) or not folder.path.parent.is_dir():
        return
    alike = re.compile(re.escape(folder.path.name.removesuffix(digits)) + "[0-9a-f]{8}")
    for path in sorted(folder.path.parent.iterdir()):
        if path == folder.path or not alike.fullmatch(path.name):
            continue
        sentence = _said_of(RunFolder(path), config, config.budget(num_tasks))
        if sentence is not None:
            yield sentence


def _said_of(other: RunFolder, config: RunConfig, budget: int) -> str | None:
    try:
        before = other.config()
    except Exception:  # whatever a folder that is no run, or one of another version, provokes
        return None
    of_the_run, of_the_measurement = sorted_changes(before, config)
    made = CheckpointStore(other.path / CHECKPOINTS).newest_env_steps()
    if of_the_run or made is None or made > budget:
        return None
    what = f"'{other.path}' holds {_CALLED.get(other.status or '', 'an unfinished')} run of {made:,} env steps that "
    what += f"differs only in {listed(of_the_measurement)}: "
    if other.status == FINISHED and made == budget:
        return f"{what}mtrl evaluate {shlex.quote(str(other.path))} measures its agent again."
    return f"{what}{shlex.quote(f'run_dir={other.path}')} resumes it, this one starts from zero."
