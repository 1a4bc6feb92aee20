"""One run, top to bottom: folder, suite, agent, learning, final evaluation, report."""

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents import ConfigurationError, NonFiniteUpdate
from agents.arguments import require_device
from agents.multitask import MultiTaskAlgorithm
from envs import EnvironmentFault, MultiTaskVecEnv, SuiteError, TaskSuite
from mtrl.build import Evaluator, make_agent, make_training_env, use_threads
from mtrl.callbacks import EvaluationCallback, Every, MetricsCallback, in_order
from mtrl.checkpoint import Checkpoint, CheckpointStore, Contents
from mtrl.checkpoint_callback import Checkpointer
from mtrl.config import RunConfig
from mtrl.console import make_reporter, print_files, print_results, say, without_harm
from mtrl.errors import CheckpointError, ConfigError, RunStopped, sentence
from mtrl.evaluation import EvaluationResult
from mtrl.relatives import resumable_elsewhere
from mtrl.run_folder import AGENT_FILE, CHECKPOINTS, FAILED, FINISHED, INTERRUPTED, RunFolder
from mtrl.run_report import REPORTED, write_batch, write_plots, write_results
from mtrl.run_state import LearningRun, changed_since, changes, refuse_changes
from mtrl.signals import StopRequest
from mtrl.tracking import METRICS_FILE, JsonlWriter, make_logger

if TYPE_CHECKING:
    import pandas

_EVALUATIONS, _METRIC_LINES = 20, 200  # in a run whose config names no interval


@dataclass(frozen=True)
class Result:
    """What a run leaves.

    :param folder: where everything is
    :param table: success per task, as :meth:`EvaluationResult.to_frame` gives it
    :param skipped: whether the run had been finished before
    """

    folder: Path
    table: "pandas.DataFrame"
    skipped: bool = False

    @property
    def success_rate(self) -> float:
        """Mean over tasks of success at any step, 0 to 1."""
        return float(self.table.loc["mean", "success"])


def run(config: RunConfig, pause_at: int | None = None) -> Result:
    """Train and evaluate one agent: start, or resume from the newest checkpoint. What is finished is not run again.

    :param pause_at: env_steps after which the run pauses with a checkpoint, at the next exact moment; with a budget
        that ends before, it finishes
    :raises ConfigError: for a setting that cannot work, before anything is written
    :raises SuiteError: for tasks that do not exist
    :raises EnvironmentFault: when simulations fail more often than allowed; what was measured is in the run's folder
    :raises NonFiniteUpdate: when updates keep meeting numbers that are not finite; so is the offending batch
    :raises RunStopped: when a signal or the wall time ended it; the same config resumes
    :raises RunPaused: when it has come to `pause_at`
    """
    folder = RunFolder.of(config)
    title = f"{config.env.suite}, {config.agent.name}, {config.balancer.name}, seed {config.seed}"
    begin_again = _begins_again(config, folder)
    if folder.status == FINISHED and not begin_again and not _goes_further(config, folder):
        say(f"'{folder.path}' holds this run already, finished {folder.record['ended']}: nothing to do.")
        if any(key.startswith("evaluation.") for key in changes(folder.config().to_dict(), config.to_dict())):
            again = f"mtrl evaluate {folder.path} --episodes {config.evaluation.final_episodes}"
            say(f"It was evaluated with other settings: {again} measures again.")
        print_results(folder.results(), title)
        return Result(folder.path, folder.results(), skipped=True)

    require_device(config.device)
    use_threads(config)
    suite = config.make_suite()
    with StopRequest(config.max_wall_time) as stop, folder.owned(config.takeover):
        store = CheckpointStore(folder.path / CHECKPOINTS, config.checkpoint.keep)
        checkpoint = _open(config, folder, store, suite.num_tasks, begin_again)
        with _recorded(folder, store), ExitStack() as stack:
            env = stack.enter_context(closing(make_training_env(config, suite)))
            evaluator = stack.enter_context(closing(Evaluator(config, suite)))
            agent = make_agent(config, env)
            runtime = {**agent.runtime, "simulating_workers": env.workers}
            folder.update(protocol=protocol(config, suite), seeds=config.seeds(), agent=runtime)
            pausing = _Pausing(store, checkpoint, stop, pause_at)
            final, seconds = _learn(config, agent, env, evaluator, folder, pausing)
            print_results(final.to_frame(), title)  # first: a disk may be full by now
            write_results(final, folder.path)
            folder.close(FINISHED, seconds=seconds, success_rate=final.success_rate)
    print_files(folder.path, REPORTED)
    return Result(folder.path, folder.results())


@dataclass(frozen=True)
class _Pausing:
    """Where a run is written down, what it resumes from, who may stop it, and when it pauses."""

    store: CheckpointStore
    checkpoint: Checkpoint | None
    stop: StopRequest
    at: int | None


def _goes_further(config: RunConfig, folder: RunFolder) -> bool:
    """Whether a config asks for more than a finished run has.

    :raises ConfigError: if it is the config of another run, or of a shorter one
    """
    refuse_changes(folder.written_config(), config, folder.path)
    made = folder.record.get("protocol", {})
    if not made:
        return False
    total = config.budget(len(made["tasks"]))
    if total < made["env_steps"]:
        raise _too_few(folder, made["env_steps"], total)
    return total > made["env_steps"]


def _too_few(folder: RunFolder, made: int, total: int) -> ConfigError:
    return ConfigError(
        f"'{folder.path}' has made {made:,} env steps: total_env_steps must be at least as many, found {total:,}."
    )


def _begins_again(config: RunConfig, folder: RunFolder) -> bool:
    """Whether the run in a folder is to be trained again, since what it was made with has changed.

    :raises ConfigError: if it has changed, and the config does not say what is to become of the run
    """
    is_there = folder.status == FINISHED or (folder.path / CHECKPOINTS).is_dir()
    changed = changed_since(folder, config) if is_there else []
    if changed and config.again is None:
        raise ConfigError(
            f"'{folder.path}' holds this run, and since then {' and '.join(changed)} has changed: again=true trains it "
            "again and keeps the old one under another name, again=false takes it as it is, and another run_dir "
            "leaves it alone."
        )
    return bool(changed and config.again)


def _open(
    config: RunConfig, folder: RunFolder, store: CheckpointStore, num_tasks: int, begin_again: bool
) -> Checkpoint | None:
    """The checkpoint that the run in a folder resumes from; without one, a new run is begun there."""
    store.clean()
    checkpoint = None if begin_again else store.newest(_warn)
    if checkpoint is None:
        if folder.status == FINISHED and not begin_again:
            raise ConfigError(
                f"'{folder.path}' is finished and holds no checkpoint to resume from: choose another run_dir."
            )
        if folder.status is None:
            for told in resumable_elsewhere(config, folder, num_tasks):
                say(told)
        folder.begin(config)
        return None
    before = checkpoint.read()["config"]
    refuse_changes(before, config, folder.path)
    total = config.budget(num_tasks)
    if total < checkpoint.env_steps and total != RunConfig.from_dict(before).budget(num_tasks):
        raise _too_few(folder, checkpoint.env_steps, total)
    folder.resume(config, checkpoint.env_steps, checkpoint.exact)
    episodes = "" if checkpoint.exact else "; the episodes that ran there begin again"
    say(f"Resuming from step {checkpoint.env_steps:,} in '{folder.path}'{episodes}.")
    return checkpoint


def _warn(text: str) -> None:
    say(f"Warning: {text}")


def _learn(
    config: RunConfig,
    agent: MultiTaskAlgorithm,
    env: MultiTaskVecEnv,
    evaluator: Evaluator,
    folder: RunFolder,
    pausing: _Pausing,
) -> tuple[EvaluationResult, dict[str, float]]:
    """Learn and measure. The agent, the metrics and the plots are on disk afterwards, whatever happened.

    :return: the final evaluation, and the seconds spent on what
    """
    total = config.budget(agent.num_tasks)
    contents = None if pausing.checkpoint is None else pausing.checkpoint.read()
    with _naming(pausing.checkpoint):
        writer = _make_writers(config, agent, folder, pausing.checkpoint, contents)
        reporter = make_reporter(total, config.tracking.progress, *_made(contents))
    evaluations = EvaluationCallback(
        evaluator.while_training, _clock(config.evaluation.every_env_steps, total, _EVALUATIONS), total, reporter
    )
    metrics = MetricsCallback(_clock(config.tracking.every_env_steps, total, _METRIC_LINES), reporter)
    learning = LearningRun(config, agent, env, writer, {"metrics": metrics, "evaluations": evaluations})
    checkpoints = Checkpointer(learning, pausing.store, config.checkpoint, total, pausing.stop, pausing.at)
    learning.clocks["checkpoints"] = checkpoints
    if pausing.checkpoint is not None and contents is not None:
        with _naming(pausing.checkpoint):
            learning.restore(pausing.checkpoint, contents)
        contents = None  # as large as the agent
    callbacks, left = in_order(metrics, evaluations, checkpoints), max(total - agent.num_timesteps, 0)
    callbacks.init_callback(agent)  # so that they know it even where learning cannot begin
    for doubt in config.agent.doubts(agent.num_tasks, total):
        _warn(f"agent.{doubt}")
    if agent.runtime.get("compiled"):
        say("The first update is compiled: up to a minute, or seconds where that was done before.")
    try:
        with reporter, pausing.stop.patiently(), _last_words(metrics, checkpoints):
            agent.learn(left, callback=callbacks, log_interval=None, reset_num_timesteps=pausing.checkpoint is None)
        learned = writer.seconds
        say(f"Learnt {agent.num_timesteps:,} env steps; now the final evaluation.")
        final = evaluator.final(agent)
        evaluations.write(final, final=True)
    finally:
        checkpoints.close()
        _leave_behind(config, agent, folder)
    return final, {
        "learning": round(learned - evaluations.seconds - checkpoints.seconds, 3),
        "evaluations": round(evaluations.seconds, 3),
        "checkpoints": round(checkpoints.seconds, 3),
        "final_evaluation": round(writer.seconds - learned, 3),
    }


@contextmanager
def _naming(checkpoint: Checkpoint | None) -> Iterator[None]:
    """Where a checkpoint is read that is whole and still makes no sense, say which."""
    try:
        yield
    except (ConfigError, ConfigurationError, SuiteError, EnvironmentFault, OSError):
        raise
    except Exception as error:  # whatever contents that nobody wrote provoke
        if checkpoint is None:
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise CheckpointError(f"Checkpoint '{checkpoint.path}' is not of this run ({reason:.300}).") from error


@contextmanager
def _last_words(metrics: MetricsCallback, checkpoints: Checkpointer) -> Iterator[None]:
    """Before a fault ends the run, write what was measured since the last line, restarts and skips among it.

    Where it is the environments that end it, the agent is in order, and is written down too.
    """
    try:
        yield
    except (EnvironmentFault, NonFiniteUpdate):
        metrics.write()
        checkpoints.after_fault()
        raise


def _make_writers(
    config: RunConfig,
    agent: MultiTaskAlgorithm,
    folder: RunFolder,
    checkpoint: Checkpoint | None,
    contents: Contents | None,
) -> JsonlWriter:
    """Give the agent its logger, which continues from a checkpoint; returns the writer of ``metrics.jsonl``."""
    writer = JsonlWriter(folder.path / METRICS_FILE, None if contents is None else contents["state"]["metrics"])
    after = None if checkpoint is None else checkpoint.env_steps
    agent.set_logger(make_logger(folder.path, config.tracking, folder.path.name, config.effective(), writer, after))
    return writer


def _made(contents: Contents | None) -> tuple[int, int]:
    """env_steps and updates that were made before the checkpoint."""
    counters = {} if contents is None else contents["agent"]["counters"]
    return counters.get("num_timesteps", 0), counters.get("_n_updates", 0)


def _leave_behind(config: RunConfig, agent: MultiTaskAlgorithm, folder: RunFolder) -> None:
    """Write the agent and the plots; a disk that is full must not hide why the run ended."""
    without_harm("Saving the agent", agent.save, folder.path / AGENT_FILE)
    made = {**folder.record["agent"], **agent.runtime}  # an update that could not be compiled is known by now
    without_harm("Recording the end", folder.update, agent=made)
    without_harm("Closing the log", agent.logger.close)
    if config.tracking.plots:
        without_harm("Drawing the plots", write_plots, folder.path)


def _clock(every_env_steps: int | None, total: int, times: int) -> Every:
    return Every(every_env_steps or max(total // times, 1))


def protocol(config: RunConfig, suite: TaskSuite) -> dict[str, Any]:
    """What a number of this run must be labelled with: the suite's protocol, and how success was measured."""
    evaluation = config.evaluation
    return {
        **suite.protocol,
        "training_horizon": config.env.horizon or suite.horizon,
        "env_steps": config.budget(suite.num_tasks),
        "task_id": config.network.task_id,
        "evaluation": {
            "episodes_per_task": evaluation.final_episodes,
            "horizon": evaluation.horizon or suite.horizon,
            "actions": "deterministic",
            "goals": "swept in order, those of seed " + str(config.evaluation_seed),
            "success": "at any step of the episode; at the last step beside it",
            "intervals": "95 % Wilson",
        },
    }


@contextmanager
def _recorded(folder: RunFolder, store: CheckpointStore) -> Iterator[None]:
    """Write into the run's record how it ended, if it did not end well."""
    try:
        yield
    except KeyboardInterrupt as stop:
        with suppress(OSError):
            folder.close(INTERRUPTED)
        if isinstance(stop, RunStopped):
            stop.then = _what_next(store)
        say(f"Stopped. What there is of the run is in {folder.path}")
        raise
    except Exception as error:
        if isinstance(error, NonFiniteUpdate):
            _keep_batch(error, folder)
        with suppress(OSError):
            folder.close(FAILED, error=sentence(error))
        raise


def _what_next(store: CheckpointStore) -> str:
    if store.latest is None:
        return "there is no checkpoint yet, so the same command starts over"
    return f"the same command resumes from env step {store.latest.env_steps:,}"


def _keep_batch(error: NonFiniteUpdate, folder: RunFolder) -> None:
    """Write what the updates that could not be made were made of."""
    path = without_harm("Keeping the offending batch", write_batch, error.batch, folder.path)
    if path is not None:
        say(f"What the last update was made of is in {path}")
