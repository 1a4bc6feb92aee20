"""Multitask problems for tests: losses and gradients as a balancer sees them."""

import atexit
import functools
import json
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch

from agents.balancers import make_balancer
from agents.files.agent_file import write_agent

GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text())


def tasks_of(losses, jacobian=None, *, improvement=0.9, **extra):
    """What a balancer sees; after the step the losses are `improvement` times as large."""
    losses = torch.as_tensor(losses)
    if jacobian is None:
        jacobian = torch.eye(len(losses), dtype=losses.dtype)
    return SimpleNamespace(
        losses=losses,
        jacobian=jacobian,
        gramian=jacobian @ jacobian.T,
        num_tasks=len(losses),
        temperatures=torch.linspace(0.1, 1.0, len(losses)).to(losses),
        progress=progress_of([0.0] * len(losses)),
        improvement=improvement,
        step=0,
        **extra,
    )


def progress_of(successes, returns=None, *, episodes=1.0, budget_used=0.0, random=0.0, best=1.0, target=1.0):
    """What `TaskProgress` tells a balancer, of so many episodes per task; without returns, successes are returns."""
    successes = torch.as_tensor(successes, dtype=torch.float64)
    returns = successes if returns is None else torch.as_tensor(returns, dtype=torch.float64)
    ones = torch.ones_like(successes)
    return SimpleNamespace(
        totals=torch.stack([episodes * ones, episodes * returns, episodes * ones, episodes * successes]),
        target_returns=target * ones,
        random_returns=random * ones,
        best_returns=best * ones,
        episodes=episodes * ones,
        budget_used=budget_used,
    )


GIVEN = {  # what the methods of given weights need, for four tasks
    "static": {"weights": [1, 2, 3, 4]},
    "schedule": {"times": [0, 0.5], "weights": [[1, 2, 3, 4], [4, 3, 2, 1]]},
}
RECORDED = ("igb_rl_frozen", "igb_rl_permuted")  # the controls that need a run of `igb_rl`


def recorded_run(num_tasks):
    """An ``agent.zip`` of a short run of `igb_rl`, kept for the tests of this process."""
    return str(_record(num_tasks))


@functools.cache
def _record(num_tasks):
    folder = Path(tempfile.mkdtemp(prefix="recorded-run-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    balancer = make_balancer("igb_rl", num_tasks=num_tasks, weights_on="loss", hold=1, hold_episodes=1)
    for step in range(20):
        tasks = random_tasks(num_tasks, num_tasks, step)
        solved = [step / (40 + task) for task in range(num_tasks)]
        tasks.progress = progress_of(solved, episodes=1 + step, budget_used=step / 20)
        balancer(tasks)
    fields = {"settings": {}, "task_names": [], "observation_space": {}, "action_space": {}}
    numbers = {"num_timesteps": 0, "n_updates": 0}
    return write_agent(folder / "agent", fields | numbers, {"critic_balancer": balancer.state_dict()})


def direction_of(balancer, tasks):
    """The update direction ``[P]`` of any balancer, on the scale of a mean over tasks."""
    balanced = balancer.balance(tasks)
    if balanced.direction is not None:
        return balanced.direction
    return balanced.weights @ tasks.jacobian / balancer.num_tasks


def relabelled(tasks, order):
    """The same tasks in another order."""
    other = tasks_of(tasks.losses[order], tasks.jacobian[order], improvement=tasks.improvement[order])
    other.temperatures = tasks.temperatures[order]
    return other


def rescaled(tasks, factors):
    """The same tasks with every loss, and its gradient, multiplied by a factor."""
    factors = torch.as_tensor(factors, dtype=tasks.losses.dtype).expand(tasks.losses.shape)
    return tasks_of(factors * tasks.losses, factors[:, None] * tasks.jacobian, improvement=tasks.improvement)


def random_tasks(num_tasks, num_parameters, seed, *, rank=None, scale=1.0, dtype=torch.float64):
    """Random positive losses and random gradients of a given rank and scale."""
    generator = torch.Generator().manual_seed(seed)
    rank = min(num_tasks, num_parameters) if rank is None else rank
    left = torch.randn(num_tasks, rank, generator=generator, dtype=torch.float64)
    right = torch.randn(rank, num_parameters, generator=generator, dtype=torch.float64)
    losses = torch.randn(num_tasks, generator=generator, dtype=torch.float64).exp()
    improvement = 1 - 0.2 * torch.rand(num_tasks, generator=generator, dtype=torch.float64)
    jacobian = scale * (left @ right) / max(rank, 1) ** 0.5
    return tasks_of(losses.to(dtype), jacobian.to(dtype), improvement=improvement.to(dtype))
