"""The losses of multitask SAC as pure functions of parameters, batch and noise.

Shapes: G groups (tasks) of B samples. Every function returns one number per group, so a balancer can weigh them.
Source: Haarnoja et al. 2018, arXiv 1812.05905, equations 5-9 and 18.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from agents.policies import Actor, Critic, call, squashed_sample

Losses = tuple[Tensor, dict[str, Tensor]]


@torch.no_grad()
def critic_target(
    actor: Actor,
    critic_target: Critic,
    next_states: Tensor,
    rewards: Tensor,
    discounts: Tensor,
    noise: Tensor,
    temperatures: Tensor,
    task: Tensor,
) -> Tensor:
    """TD target of every transition, with the next action drawn by the current actor.

    :param next_states: ``[K, B, S]``
    :param rewards: scaled ``[K, B]``
    :param discounts: ``gamma (1 - terminal)``, ``[K, B]``
    :param noise: standard normal ``[K, B, A]``
    :param temperatures: ``[K]``
    :return: target of the critic's loss: values ``[K, B]``, or distributions ``[K, B, O]``
    """
    mean, log_std = actor(next_states, task)
    next_actions, log_probabilities = squashed_sample(mean, log_std, noise, actor.own(task))
    next_outputs = critic_target(next_states, next_actions, task)
    value = critic_target.value.for_tasks(task)
    return value.target(next_outputs, rewards, discounts, -temperatures[:, None] * log_probabilities)


def critic_losses(
    critic: Critic, parameters: Mapping[str, Tensor], states: Tensor, actions: Tensor, target: Tensor, task: Tensor
) -> Losses:
    """Critic loss of every task ``[G]``."""
    value = critic.value.for_tasks(task)
    outputs = call(critic, parameters, states, actions, task)
    return value.losses(outputs, target), value.metrics(outputs.detach(), target)


def actor_losses(
    actor: Actor,
    critic: Critic,
    parameters: Mapping[str, Tensor],
    states: Tensor,
    noise: Tensor,
    temperatures: Tensor,
    task: Tensor,
) -> Losses:
    """Actor loss of every task ``[G]``: ``mean_b (alpha log pi(a|s) - Q(s, a))``, Q the reduced value of the E critics.

    Where values are normalised per task, the loss is divided by their sigma (Hessel et al. 2019, arXiv 1809.04474).
    The critic's parameters take no gradient: half of the critic's backward pass is not computed.
    """
    mean, log_std = call(actor, parameters, states, task)
    actions, log_probabilities = squashed_sample(mean, log_std, noise, actor.own(task))
    frozen = {name: parameter.detach() for name, parameter in critic.named_parameters()}
    value = critic.value.for_tasks(task)
    values = value.reduced(call(critic, frozen, states, actions, task))
    log_probability = log_probabilities.mean(-1)
    losses = (temperatures * log_probability - values.mean(-1)) / value.unit
    return losses, {"log_probability": log_probability.detach()}
