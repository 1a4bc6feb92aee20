"""Every metric that is logged: its tag, and what it means. Agents write these tags, and everything else reads them.

A tag per task is ``<tag>/<task>``: `of_task`. The table of metrics in the documents is made from `MEANINGS`.
"""

import re
from collections.abc import Iterable, Mapping

import torch

# On every line of metrics.jsonl.
ENV_STEPS = "env_steps"
WALL_TIME = "wall_time"

# Of an evaluation.
EVAL_SUCCESS_RATE = "eval/success_rate"
EVAL_EPISODES = "eval/episodes_per_task"
EVAL_FINAL = "eval/final"
EVAL_SUCCESS = "eval_success"
EVAL_SUCCESS_AT_END = "eval_success_at_end"
EVAL_RETURN = "eval_return"
EVAL_LENGTH = "eval_length"

# Of training, beside the updates.
ROLLOUT_SUCCESS = "rollout_success"
ROLLOUT_RETURN = "rollout_return"
UPDATES = "train/n_updates"
LEARNING_RATE = "train/learning_rate"
SKIPPED_UPDATES = "train/skipped_updates"
RESTARTS = "env/restarts"
TASK_RESTARTS = "env_restarts"
MEMORY = "time/memory_gb"
BALANCER_WEIGHT = "balancer_weight"
BALANCER_WEIGHT_ACTOR = "balancer_weight_actor"

# Metrics of an update, and the tag each has in a log: SB3's name for the mean over tasks, `<tag>/<task>` for one task.
MEAN_TAGS = {
    "critic_loss": "train/critic_loss",
    "actor_loss": "train/actor_loss",
    "temperature": "train/ent_coef",
    "temperature_loss": "train/ent_coef_loss",
    "q_value": "train/q_value",
    "entropy": "train/entropy",
    "critic_gradient_norm": "train/critic_gradient_norm",
    "actor_gradient_norm": "train/actor_gradient_norm",
    "approx_kl": "train/approx_kl",
    "clip_fraction": "train/clip_fraction",
    "explained_variance": "train/explained_variance",
    "std": "train/std",
}
TASK_TAGS = {
    "critic_loss": "train_critic_loss",
    "actor_loss": "train_actor_loss",
    "temperature": "ent_coef",
    "q_value": "train_q_value",
    "entropy": "train_entropy",
    "approx_kl": "train_approx_kl",
    "clip_fraction": "train_clip_fraction",
    "explained_variance": "train_explained_variance",
    "std": "train_std",
    "critic_balancer.weights": BALANCER_WEIGHT,
    "actor_balancer.weights": BALANCER_WEIGHT_ACTOR,
    "critic_balancer.gaps": "balancer_gap",
    "critic_balancer.decided": "balancer_decided",
    "critic_balancer.interest": "balancer_interest",
}
# Extremes over the tasks of such means: what to watch for values that run away, and for tasks that are left alone.
RANGE_TAGS = {
    "q_max_abs": (("train/q_max_abs", torch.amax),),
    "temperature": (("train/temperature_min", torch.amin), ("train/temperature_max", torch.amax)),
    "critic_balancer.weights": (("train/critic_balancer.weight_min", torch.amin),),
    "actor_balancer.weights": (("train/actor_balancer.weight_min", torch.amin),),
}

# Share of the pairs of tasks in conflict, as gradient methods report it, of the network that the first group names.
CONFLICT_SHARE = re.compile(r"train/(critic|actor)_balancer\b.*\bconflict_share$")

# The weights of one part of a composition, as an update reports them.
_PART_WEIGHTS = re.compile(r"(critic|actor)_balancer\.(?P<part>.+)\.weights")

_PLACEHOLDER = re.compile(r"<\w+>")


def of_task(tag: str, task: str) -> str:
    """The tag of one task."""
    return f"{tag}/{task}"


def task_tag(name: str) -> str | None:
    """The tag under which a metric of an update is logged for every task; None for one that is not."""
    if part := _PART_WEIGHTS.fullmatch(name):
        whole = BALANCER_WEIGHT if part[1] == "critic" else BALANCER_WEIGHT_ACTOR
        return of_part(whole, part["part"])
    return TASK_TAGS.get(name)


def of_part(tag: str, part: str) -> str:
    """The tag of one part of a composition, such as ``balancer_weight.igb_v1``."""
    return f"{tag}.{part}"


def parts_of(tag: str, tags: Iterable[str]) -> list[str]:
    """The parts of a composition that some tags of tasks name, in order."""
    start = of_part(tag, "")
    found = [name.removeprefix(start).rpartition("/")[0] for name in tags if name.startswith(start)]
    return list(dict.fromkeys(found))


def _with_tasks(name: str) -> tuple[str, str]:
    return MEAN_TAGS[name], of_task(TASK_TAGS[name], "<task>")


# Tags that are explained together; what stands in angle brackets differs from one to the next.
MEANINGS: Mapping[tuple[str, ...], str] = {
    (ENV_STEPS, WALL_TIME): "transitions of all tasks, and seconds without pauses, since the run began",
    (EVAL_SUCCESS_RATE,): "mean over tasks of success at any step, 0 to 1; deterministic actions",
    (of_task(EVAL_SUCCESS, "<task>"), of_task(EVAL_SUCCESS_AT_END, "<task>")): (
        "the same for one task; success at the last step (final evaluation only, by default)"
    ),
    (of_task(EVAL_RETURN, "<task>"), of_task(EVAL_LENGTH, "<task>")): (
        "mean return of whole episodes; steps until the end, or until the first success while training"
    ),
    (EVAL_EPISODES, EVAL_FINAL): "episodes of each task in this evaluation; 1 for the final evaluation, 0 for others",
    (of_task(ROLLOUT_SUCCESS, "<task>"), of_task(ROLLOUT_RETURN, "<task>")): (
        "the last 20 training episodes of a task, with exploration"
    ),
    ("rollout/ep_rew_mean", "rollout/ep_len_mean", "rollout/success_rate"): (
        "return, length and success of the last 100 training episodes of all tasks, as Stable-Baselines3 has them"
    ),
    _with_tasks("critic_loss"): (
        "half the squared TD error, or the cross-entropy, summed over the critics; unweighted. The first grows with "
        "the scale of the rewards"
    ),
    _with_tasks("actor_loss"): (
        "`alpha log pi - min Q`: falls below zero as values rise. Of PPO, the clipped surrogate and the entropy, with "
        "the opposite sign: about zero"
    ),
    _with_tasks("q_value"): "mean value of the batch. Steady growth beyond `max reward / (1 - gamma)` is divergence",
    _with_tasks("temperature"): "temperature; near zero the task acts almost greedily",
    (MEAN_TAGS["temperature_loss"],): "positive when the entropy is above its target",
    _with_tasks("entropy"): "estimated entropy of the actions in nats; it should settle near the target, `-A`",
    _with_tasks("approx_kl"): (
        "of PPO: divergence of the policy from the one that acted, in nats; a mean over the minibatches"
    ),
    _with_tasks("clip_fraction"): "of PPO: share of the transitions whose ratio of densities is clipped",
    _with_tasks("explained_variance"): (
        "of PPO: 1 where values foretell returns, 0 where a constant would do as well; none for a task whose returns "
        "do not differ"
    ),
    _with_tasks("std"): "of PPO: standard deviation of the actions, in units of half the box; a mean over the actions",
    (MEAN_TAGS["critic_gradient_norm"], MEAN_TAGS["actor_gradient_norm"]): "before clipping",
    ("train/q_max_abs",): (
        "largest value of a batch over all critics, its mean over the updates, of the task where it is largest; "
        "compare as `train/q_value`"
    ),
    ("train/temperature_min", "train/temperature_max"): "range of the temperatures over the tasks",
    (LEARNING_RATE,): "of the latest updates",
    (UPDATES,): "gradient updates since the training began",
    (SKIPPED_UPDATES,): ("updates skipped for a number that is not finite, since the training began; it should stay 0"),
    (MEMORY,): (
        "memory that the run and its workers hold, what they share counted for each. It grows while the replay buffer "
        "fills and with the first evaluation, whose environments are kept, and not after"
    ),
    ("time/fps", "time/time_elapsed", "time/episodes", "time/total_timesteps", "time/iterations"): (
        "Stable-Baselines3's: transitions per second, seconds, episodes and transitions; those of this process"
    ),
    (RESTARTS, of_task(TASK_RESTARTS, "<task>")): "environment faults that training survived; by the tasks they named",
    ("train/critic_balancer.weight_min", "train/actor_balancer.weight_min"): (
        "weight of the task that weighs least; near zero it is left alone"
    ),
    (of_task(BALANCER_WEIGHT, "<task>"), of_task(BALANCER_WEIGHT_ACTOR, "<task>")): (
        "mean weight of a task; ones for `unitary`. Of a composition, the product of its parts"
    ),
    (
        of_task(of_part(BALANCER_WEIGHT, "<part>"), "<task>"),
        of_task(of_part(BALANCER_WEIGHT_ACTOR, "<part>"), "<task>"),
    ): "mean weight that one part of a composition gave a task: of `a+b`, `balancer_weight.a` and `balancer_weight.b`",
    (of_task(TASK_TAGS["critic_balancer.gaps"], "<task>"),): (
        "improvable gap, 0 to 1, of the methods that have one (`igb_rl`, `igb_v1_rl`)"
    ),
    (of_task(TASK_TAGS["critic_balancer.interest"], "<task>"),): (
        "how much is still expected of a task, 0 to 1: it falls while budget is spent on a gap that stands still"
    ),
    (of_task(TASK_TAGS["critic_balancer.decided"], "<task>"),): (
        "share of every batch that was decided for a task, 1 on average, with `weights_on=sampling`; its weight is "
        "what was drawn"
    ),
    ("train/critic_balancer.groups", "train/critic_balancer.share_at_work", "train/critic_balancer.threshold"): (
        "of SON-GOKU: number of groups, share of the tasks in an update, threshold of the graph"
    ),
    ("train/critic_balancer.refreshes", "train/critic_balancer.refresh_seconds"): (
        "refreshes so far; what the latest one cost, from the gradients of all tasks to the new groups"
    ),
    ("train/critic_balancer.weight_entropy", "train/actor_balancer.weight_entropy"): (
        "1 when all tasks weigh the same, 0 when one has all the weight"
    ),
    ("train/critic_balancer.conflict_share", "train/actor_balancer.conflict_share"): (
        "of gradient methods: share of the pairs of tasks whose gradients point apart"
    ),
    ("train/critic_balancer.<name>", "train/actor_balancer.<name>"): (
        "what else a method says of itself; its page explains it"
    ),
}


def meaning_of(tag: str) -> str | None:
    """What a logged tag means; None for a tag that no metric of ours has."""
    for tags, meaning in MEANINGS.items():
        if any(_pattern(known).fullmatch(tag) for known in tags):
            return meaning
    return None


def _pattern(tag: str) -> re.Pattern[str]:
    """Of all tags that one of `MEANINGS` stands for."""
    return re.compile(".+".join(re.escape(part) for part in _PLACEHOLDER.split(tag)), re.DOTALL)
