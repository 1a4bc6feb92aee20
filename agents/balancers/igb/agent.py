"""What weight agents share: policy, critics with targets, optimisers in buffers, memory, and generators of their own.

They see task features ``[K, F]``, answer with a point on the simplex, and are told what that brought. They know neither
balancers nor the agent whose tasks are weighted. Two of them: `ddpg_agent.py`, ours, and `sac_agent.py`, the published.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from agents.balancers.igb.memory import DecisionMemory, Decisions
from agents.balancers.igb.networks import make_critic, make_policy
from agents.balancing.buffer_adam import BufferAdam


@dataclass(frozen=True, kw_only=True)
class WeightAgentSettings:
    """How a weight agent learns.

    :param network: ``equivariant`` (any number of tasks, all treated alike, a value for each) or ``mlp``
    :param width: of the hidden layers
    :param gamma: discount per decision
    :param tau: Polyak coefficient of the target networks
    :param actor_lr: step size of the policy
    :param critic_lr: step size of the critic
    :param capacity: decisions kept
    :param critics: E; with 2 the smaller value counts
    """

    network: str = "equivariant"
    width: int = 64
    gamma: float = 0.9
    tau: float = 0.005
    actor_lr: float = 1e-3
    critic_lr: float = 1e-3
    capacity: int = 10_000
    critics: int = 1


class WeightAgent(nn.Module):
    """An agent whose state is in tensors.

    All state is in `state_dict`: a restored agent continues identically.

    :param num_tasks: K
    :param features: F
    :param outputs: numbers that the policy gives for each task
    :param generator: seeds the agent's own generators, of which there is one for each purpose
    """

    def __init__(
        self, num_tasks: int, features: int, outputs: int, settings: WeightAgentSettings, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.num_tasks, self.settings = num_tasks, settings
        self.exploration, self.replay, weights = (spawn(generator) for _ in range(3))
        shape = (settings.network, num_tasks, features)
        self.actor = make_policy(*shape, outputs, settings.width, weights)
        self.critic = make_critic(*shape, settings.width, settings.critics, weights)
        self.critic_target = make_critic(*shape, settings.width, settings.critics, weights)
        self.critic_target.load_state_dict(self.critic.state_dict())
        self.critic_target.requires_grad_(False)
        self.actor_adam = BufferAdam(_size(self.actor), settings.actor_lr)
        self.critic_adam = BufferAdam(_size(self.critic), settings.critic_lr)
        by_task = settings.network == "equivariant"
        self.memory = DecisionMemory(num_tasks, features, settings.capacity, by_task)

    def update(self, batch: Decisions) -> dict[str, Tensor]:
        """One step of critic and policy on a batch; returns what it saw, as scalars."""
        raise NotImplementedError

    def get_extra_state(self) -> Tensor:
        """States of the two generators ``[2, bytes]``."""
        return torch.stack([self.exploration.get_state(), self.replay.get_state()])

    def set_extra_state(self, state: Tensor) -> None:
        # `set_state` reads from the beginning of the storage, so that a row must be a tensor of its own.
        self.exploration.set_state(state[0].cpu().clone())
        self.replay.set_state(state[1].cpu().clone())

    def _descend(self, module: nn.Module, adam: BufferAdam, loss: Tensor) -> None:
        """One step of one network."""
        parameters: list[Tensor] = list(module.parameters())
        gradient = torch.cat([part.flatten() for part in torch.autograd.grad(loss, parameters)])
        with torch.no_grad():
            values = nn.utils.parameters_to_vector(parameters)
            adam.step(values, gradient)
            parts = values.split([parameter.numel() for parameter in parameters])
            torch._foreach_copy_(
                parameters, [part.view_as(parameter) for part, parameter in zip(parts, parameters, strict=True)]
            )

    def _follow(self, target: nn.Module, source: nn.Module) -> None:
        """Polyak averaging."""
        with torch.no_grad():
            torch._foreach_lerp_(list(target.parameters()), list(source.parameters()), self.settings.tau)


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def spawn(generator: torch.Generator) -> torch.Generator:
    """A new generator on the CPU, seeded by another."""
    return torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=generator)))
