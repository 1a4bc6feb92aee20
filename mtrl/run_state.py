"""What a run consists of while it learns: taken down as a snapshot, and brought back from a checkpoint."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from agents.multitask import MultiTaskAlgorithm
from agents.settings import Changes, walk
from envs import MultiTaskVecEnv
from mtrl import replay_chunks
from mtrl.checkpoint import Checkpoint, Contents, Snapshot
from mtrl.config import RunConfig, flatten
from mtrl.errors import ConfigError
from mtrl.plugins import described
from mtrl.replay_chunks import NO_REPLAY, Chunk
from mtrl.run_folder import CONFIG_FILE, FINISHED, RunFolder
from mtrl.tracking import JsonlWriter


class Clocked(Protocol):
    """A callback with a clock."""

    def state(self) -> dict[str, Any]: ...
    def load_state(self, state: dict[str, Any]) -> None: ...


class LearningRun:
    """Everything that changes while a run learns, as one thing that can be put down and taken up.

    :param config: the run's settings
    :param agent: learns
    :param env: is learnt in
    :param metrics: writes the lines of ``metrics.jsonl``
    :param clocks: callbacks, by name
    """

    def __init__(
        self,
        config: RunConfig,
        agent: MultiTaskAlgorithm,
        env: MultiTaskVecEnv,
        metrics: JsonlWriter,
        clocks: dict[str, Clocked],
    ) -> None:
        self.config, self.agent, self.env, self.metrics, self.clocks = config, agent, env, metrics, clocks

    def snapshot(self, before: Sequence[Chunk]) -> Snapshot:
        """A copy of the run as it stands between two rounds of learning.

        :param before: files of the replay buffer in the checkpoint before
        """
        buffer = self.agent.replay_buffer
        clocks = {name: clock.state() for name, clock in self.clocks.items()}
        environments = self.env.state_dict()  # first: it may find that a worker has died
        return Snapshot(
            env_steps=self.agent.num_timesteps,
            exact=self.env.restorable,
            score=clocks["evaluations"]["latest"],
            config=self.config.effective(),
            state={"environments": environments, "clocks": clocks, "metrics": self.metrics.position()},
            agent=self.agent.state(),
            replay=NO_REPLAY if buffer is None else replay_chunks.snapshot(buffer, before),
        )

    def restore(self, checkpoint: Checkpoint, contents: Contents) -> None:
        """Resume where a checkpoint was made; episodes that could not be saved begin again.

        :param contents: what was read of the checkpoint
        :raises CheckpointError: for a file that cannot be read
        :raises ConfigurationError: for the state of another agent
        :raises SuiteError: for that of other environments
        """
        if self.agent.replay_buffer is not None:
            replay_chunks.restore(self.agent.replay_buffer, checkpoint.manifest["replay"], checkpoint.rows)
        observations = self.env.load_state_dict(contents["state"]["environments"])
        self.agent.load_state(contents["agent"], observations)
        if not checkpoint.exact:
            self.agent.begin_episodes()
        for name, clock in self.clocks.items():
            clock.load_state(contents["state"]["clocks"][name])


Differing = dict[str, tuple[Any, Any]]  # values there and here, by setting


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Differing:
    """Settings that differ, as ``{"agent.tau": (old, new)}``.

    :param before: a config as a plain dict
    :param now: another one
    """
    old, new = flatten(before), flatten(now)
    return {
        key: (old.get(key), new.get(key)) for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)
    }


def changed_since(folder: RunFolder, now: RunConfig) -> list[str]:
    """What has changed since a run was begun although its command has not: defaults, and the source of plug-ins.

    :return: a part of a sentence for each; nothing where a setting of the command differs, which is refused elsewhere
    """
    if not (folder.path / CONFIG_FILE).is_file():
        return []
    try:
        differing = sorted_changes(RunConfig.from_dict(folder.written_config()), now)[0]
    except ConfigError:
        if folder.status == FINISHED:
            raise
        return []  # its checkpoint will say what is wrong
    given = flatten(now.to_dict())
    if any(given.get(key) is not None for key in differing):
        return []
    found = [f"the default of {key} ({old!r} then, {new!r} now)" for key, (old, new) in differing.items()]
    then, today = (_sources(plugins) for plugins in (folder.record.get("plugins", {}), described(now.of_plugins())))
    for what in sorted(then.keys() & today.keys()):
        if then[what] != today[what]:
            versions = " and ".join(f"{source} {when}" for source, when in ((then[what], "then"), (today[what], "now")))
            found.append(f"the plug-in of {what} ({versions})")
    return found


def is_finished(config: RunConfig) -> bool:
    """Whether the run of a config is there, and as this command would make it."""
    folder = RunFolder.of(config)
    return folder.status == FINISHED and (config.again is False or not changed_since(folder, config))


def _sources(plugins: Mapping[str, Any]) -> dict[str, str]:
    """Of everything that a run uses of plug-ins: which, with its version and the beginning of its source's hash."""
    return {
        what: " ".join(filter(None, (name, plugin.get("version"), str(plugin.get("sha256"))[:12])))
        for name, plugin in plugins.items()
        for what in plugin.get("registers", [])
    }


def refuse_changes(before: Mapping[str, Any], now: RunConfig, folder: object) -> None:
    """Refuse to resume with settings that would make another run of it.

    :param before: the config of the run, as a plain dict
    :param folder: of the run, for the sentence
    :raises ConfigError: naming every setting that must not change, with both values
    """
    refused = sorted_changes(RunConfig.from_dict(before), now)[0]
    if now.again is False:  # a default that has changed is taken as it is
        given = flatten(now.to_dict())
        refused = {key: values for key, values in refused.items() if given.get(key) is not None}
    if refused:
        raise ConfigError(
            f"'{folder}' holds a run with other settings: {listed(refused)}. Choose another run_dir for these."
        )


def sorted_changes(before: RunConfig, now: RunConfig) -> tuple[Differing, Differing]:
    """Settings that differ: those that make another run, and those that may change when a run is resumed.

    Settings that change nothing are in neither. An option at its default counts as what that is.
    """
    differing = changes(before.effective(), now.effective())
    meant = {setting.name: setting.changes for setting in walk(now)}
    of_the_run = {key: pair for key, pair in differing.items() if meant.get(key, Changes.RESULT) is Changes.RESULT}
    measured = {key: pair for key, pair in differing.items() if meant.get(key) is Changes.MEASUREMENT}
    return of_the_run, measured


def listed(differing: Differing) -> str:
    """``agent.tau (0.1 there, 0.2 here), seed (1 there, 2 here)``."""
    return ", ".join(f"{key} ({old!r} there, {new!r} here)" for key, (old, new) in differing.items())
