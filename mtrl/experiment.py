"""One run, top to bottom: folder, suite, agent, learning, final evaluation, report."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents import MTSAC, NonFiniteUpdate
from envs import EnvironmentFault, TaskSuite
from mtrl.build import Evaluator, make_agent, make_training_env, use_threads
from mtrl.callbacks import EvaluationCallback, Every, MetricsCallback, in_order
from mtrl.config import RunConfig
from mtrl.console import make_reporter, print_files, print_results, say, without_harm
from mtrl.errors import sentence
from mtrl.evaluation import EvaluationResult
from mtrl.report import REPORTED, write_batch, write_plots, write_results
from mtrl.run_folder import AGENT_FILE, FAILED, FINISHED, INTERRUPTED, RunFolder
from mtrl.tracking import make_logger

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


def run(config: RunConfig) -> Result:
    """Train and evaluate one agent. A run that is finished is not run again.

    :raises ConfigError: for a setting that cannot work, before anything is written
    :raises SuiteError: for tasks that do not exist
    :raises EnvironmentFault: when simulations fail more often than allowed; what was measured is in the run's folder
    :raises NonFiniteUpdate: when updates keep meeting numbers that are not finite; so is the offending batch
    :raises KeyboardInterrupt: when stopped; the agent and what was measured are in the run's folder
    """
    folder = RunFolder.of(config)
    title = f"{config.env.suite}, {config.agent.name}, {config.balancer.name}, seed {config.seed}"
    if folder.status == FINISHED:
        say(f"'{folder.path}' holds this run already, finished {folder.record['ended']}: nothing to do.")
        print_results(folder.results(), title)
        return Result(folder.path, folder.results(), skipped=True)

    use_threads(config)
    suite = config.make_suite()
    folder.claim(config)
    with _recorded(folder), ExitStack() as stack:
        env = stack.enter_context(closing(make_training_env(config, suite)))
        evaluator = stack.enter_context(closing(Evaluator(config, suite)))
        agent = make_agent(config, env)
        folder.update(protocol=protocol(config, suite), seeds=config.seeds(), agent=agent.runtime)
        final, seconds = _learn(config, agent, evaluator, folder)
        write_results(final, folder.path)
        folder.close(FINISHED, seconds=seconds, success_rate=final.success_rate)
    print_results(folder.results(), title)
    print_files(folder.path, REPORTED)
    return Result(folder.path, folder.results())


def _learn(
    config: RunConfig, agent: MTSAC, evaluator: Evaluator, folder: RunFolder
) -> tuple[EvaluationResult, dict[str, float]]:
    """Learn and measure. The agent, the metrics and the plots are on disk afterwards, whatever happened.

    :return: the final evaluation, and the seconds spent on what
    """
    total = config.budget(agent.num_tasks)
    reporter = make_reporter(total, config.tracking.progress)
    evaluations = EvaluationCallback(
        evaluator.while_training, _clock(config.evaluation.every_env_steps, total, _EVALUATIONS), total, reporter
    )
    metrics = MetricsCallback(_clock(config.tracking.every_env_steps, total, _METRIC_LINES), reporter)
    agent.set_logger(make_logger(folder.path, config.tracking, folder.path.name, config.to_dict()))
    started = time.monotonic()
    try:
        with reporter, _last_metrics(metrics):
            agent.learn(total, callback=in_order(metrics, evaluations), log_interval=None)
        learned = time.monotonic()
        say(f"Learnt {agent.num_timesteps:,} env steps; now the final evaluation.")
        final = evaluator.final(agent)
        evaluations.write(final, final=True)
    finally:
        agent.save(folder.path / AGENT_FILE)
        agent.logger.close()
        if config.tracking.plots:
            without_harm("Drawing the plots", write_plots, folder.path)
    ended = time.monotonic()
    return final, {
        "learning": round(learned - started - evaluations.seconds, 3),
        "evaluations": round(evaluations.seconds, 3),
        "final_evaluation": round(ended - learned, 3),
    }


@contextmanager
def _last_metrics(metrics: MetricsCallback) -> Iterator[None]:
    """Before a fault ends the run, write what was measured since the last line: restarts and skips among it."""
    try:
        yield
    except (EnvironmentFault, NonFiniteUpdate):
        metrics.write()
        raise


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
def _recorded(folder: RunFolder) -> Iterator[None]:
    """Write into the run's record how it ended, if it did not end well."""
    try:
        yield
    except KeyboardInterrupt:
        folder.close(INTERRUPTED)
        say(f"Stopped. All that was done until now is in {folder.path}")
        raise
    except Exception as error:
        if isinstance(error, NonFiniteUpdate):
            path = without_harm("Keeping the offending batch", write_batch, error.batch, folder.path)
            say(f"What the last update was made of is in {path}")
        folder.close(FAILED, error=sentence(error))
        raise
