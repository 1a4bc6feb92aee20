"""``mtrl export-dataset``: episodes of a policy, or of Meta-World's scripted experts, as a Minari dataset.

The format is that of Farama's Minari: observations ``[T + 1, S + K]``, actions ``[T, A]`` and rewards ``[T]`` of every
episode. Each episode's metadata say its task, goal, success and return; the dataset's say the tasks.
"""

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from envs import MultiTaskVecEnv, TaskSuite
from mtrl.errors import ConfigError, MissingExtra
from mtrl.evaluation import Policy, refuse_tasks_not_learnt
from mtrl.machine import evaluating_workers
from mtrl.places import require_folder

_NAME = re.compile(r"([\w-]+/)*[\w-]+-v\d+")  # what Minari takes for the name of a dataset
_PLACE = "MINARI_DATASETS_PATH"


class MetaWorldExperts:
    """The scripted policies that Meta-World ships, one for each task, behind SB3's `predict`.

    :param task_names: of a suite of Meta-World
    :raises ConfigError: for a task that has no scripted policy
    """

    def __init__(self, task_names: Sequence[str]) -> None:
        from metaworld.policies import ENV_POLICY_MAP

        if unknown := [name for name in task_names if name not in ENV_POLICY_MAP]:
            raise ConfigError(f"Scripted experts are Meta-World's, and task '{unknown[0]}' has none.")
        self.task_names = tuple(task_names)
        self._experts: list[Any] = [ENV_POLICY_MAP[name]() for name in task_names]  # type: ignore[abstract]

    def predict(self, observation: Any, *, deterministic: bool = True) -> tuple[np.ndarray, None]:
        """Actions ``[N, A]`` for observations ``[N, S + K]``; the experts are deterministic."""
        states, one_hot = np.split(np.asarray(observation, dtype=float), [-len(self._experts)], axis=1)
        actions = [self._experts[task].get_action(state) for task, state in zip(one_hot.argmax(1), states, strict=True)]
        return np.clip(actions, -1.0, 1.0).astype(np.float32), None


def export_dataset(
    model: Policy,
    suite: TaskSuite,
    name: str,
    folder: Path | None = None,
    *,
    episodes: int = 50,
    seed: int = 0,
    horizon: int | None = None,
    workers: int | None = None,
    deterministic: bool = True,
    about: str = "",
) -> Path:
    """Run a policy in every task of a suite and write its episodes; goals are swept, as in an evaluation.

    :param model: a trained agent, or anything with SB3's ``predict``
    :param suite: the tasks
    :param name: of the dataset, such as ``mt10/expert-v0``
    :param folder: of all datasets; None is Minari's own, ``~/.minari/datasets``
    :param episodes: per task
    :param seed: fixes the goals
    :param horizon: steps per episode; None is the suite's own
    :param workers: simulating processes; None uses every core
    :param deterministic: the policy's mean action instead of a sample
    :param about: who acted, for the description
    :return: the folder of the dataset, which ``minari.MinariDataset`` reads
    :raises MissingExtra: if Minari is not installed
    :raises ConfigError: for a name that Minari does not take or that is taken, or a number of episodes below one
    :raises ConfigurationError: for other tasks than the model has learnt
    """
    minari = _require_minari()
    if episodes < 1:
        raise ConfigError(f"episodes must be at least 1, found {episodes}.")
    if not _NAME.fullmatch(name):
        raise ConfigError(f"A dataset's name must end in a version, such as 'mt10/expert-v0', found '{name}'.")
    refuse_tasks_not_learnt(model, suite.task_names)
    with _datasets_in(folder):
        if name in minari.list_local_datasets():
            raise ConfigError(f"There is a dataset '{name}' already: choose another name, such as its next version.")
        env = suite.make_vec_env(
            seed=seed, workers=evaluating_workers(workers, suite.num_tasks), goal_order="sweep", horizon=horizon
        )
        with closing(env):
            recorded = list(_episodes(model, env, episodes, deterministic))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Minari's advice for public datasets
            dataset = minari.create_dataset_from_buffers(
                name,
                [minari.data_collector.EpisodeBuffer(**arrays) for arrays, _ in recorded],
                observation_space=env.observation_space,
                action_space=env.action_space,
                algorithm_name=about or None,
                description=f"{episodes} episodes of each of {len(suite.task_names)} tasks of {suite.name}.",
            )
        dataset.storage.update_metadata(
            {"suite": suite.name, "task_names": list(suite.task_names), "seed": seed, "deterministic": deterministic}
        )
        dataset.storage.update_episode_metadata([told for _, told in recorded])
        return Path(dataset.storage.data_path).parent


def _episodes(
    model: Policy, env: MultiTaskVecEnv, episodes: int, deterministic: bool
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """The first episodes of every task: what Minari stores of each, and what there is to say of it."""
    made = np.zeros(env.num_tasks, dtype=int)
    observations: Any = env.reset()
    open_ones = [_Episode(observation) for observation in observations]
    while (made < episodes).any():
        actions, _ = model.predict(observations, deterministic=deterministic)
        env.step_async(actions)
        observations, rewards, dones, infos = env.step_wait()
        for i, info in enumerate(infos):
            following = info["terminal_observation"] if dones[i] else observations[i]
            open_ones[i].add(actions[i], float(rewards[i]), following, bool(dones[i]), info)
            if not dones[i]:
                continue
            task = int(env.task_of_env[i])
            if made[task] < episodes and "fault" not in info:  # where its environment was rebuilt, it is no episode
                made[task] += 1
                yield (
                    open_ones[i].arrays(),
                    {
                        "task": env.task_names[task],
                        "goal": int(info.get("goal", -1)),
                        "success": bool(info["is_success"]),
                        "return": float(info["episode"]["r"]),
                    },
                )
            open_ones[i] = _Episode(observations[i])


class _Episode:
    def __init__(self, first: np.ndarray) -> None:
        self.observations = [np.array(first, dtype=np.float32)]
        self.actions: list[np.ndarray] = []
        self.rewards: list[float] = []
        self.ends: list[tuple[bool, bool]] = []  # in a terminal state, by a time-out
        self.success = [False]  # one for each observation, as Minari has it

    def add(self, action: np.ndarray, reward: float, following: np.ndarray, done: bool, info: dict[str, Any]) -> None:
        timed_out = bool(done and info.get("TimeLimit.truncated", False))
        self.observations.append(np.array(following, dtype=np.float32))
        self.actions.append(np.array(action, dtype=np.float32))
        self.rewards.append(reward)
        self.ends.append((done and not timed_out, timed_out))
        self.success.append(bool(info.get("success", False)))

    def arrays(self) -> dict[str, Any]:
        terminations, truncations = np.array(self.ends).T
        return {
            "observations": np.stack(self.observations),
            "actions": np.stack(self.actions),
            "rewards": np.array(self.rewards),
            "terminations": terminations,
            "truncations": truncations,
            "infos": {"success": np.array(self.success)},
        }


@contextmanager
def _datasets_in(folder: Path | None) -> Iterator[None]:
    """Context in which Minari's datasets lie in a folder."""
    if folder is None:
        yield
        return
    require_folder(folder, "--out")
    before = os.environ.get(_PLACE)
    os.environ[_PLACE] = str(folder.resolve())
    try:
        yield
    finally:
        os.environ.pop(_PLACE)
        if before is not None:
            os.environ[_PLACE] = before


def _require_minari() -> Any:
    try:
        import minari
        import minari.data_collector
    except ImportError as error:
        raise MissingExtra(
            f"A dataset needs {error.name}, which is not installed: pip install 'mtrl-toolkit[data]'."
        ) from error
    return minari
