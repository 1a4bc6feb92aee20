"""The order of the tasks is what a one-hot means: whoever acts in an environment compares names with it first."""

from collections.abc import Sequence

from agents.errors import ConfigurationError


def refuse_other_tasks(learnt: Sequence[str], found: Sequence[str]) -> None:
    """Refuse an environment whose one-hot means something else than the agent's.

    :param learnt: the agent's K task names, in order
    :param found: the environment's
    :raises ConfigurationError: for other names, or the same ones in another order
    """
    learnt, found = list(learnt), list(found)
    if learnt == found:
        return
    cure = "give them in the agent's order" if sorted(learnt) == sorted(found) else "build it with the agent's tasks"
    raise ConfigurationError(f"The agent learns the tasks {learnt}, the environment has {found}: {cure}.")
