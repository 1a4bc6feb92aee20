"""What algorithms with an actor and a critic have in common: two learners, each with its balancer, under one guard."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from agents import tags
from agents.allocator import keep_freed_memory
from agents.balancers import make_balancer
from agents.balancing.balancer import Balancer, Needs
from agents.balancing.gradient_memory import expect_parameters
from agents.balancing.guard import UpdateGuard
from agents.balancing.learner import Learner
from agents.balancing.objective import GradientLayout
from agents.balancing.sides import balancer_of_actor
from agents.balancing.task_gradients import Scratch, factors_pay
from agents.compiler import Compiler
from agents.errors import ConfigurationError
from agents.metrics import UpdateMetrics
from agents.multitask import MultiTaskAlgorithm
from agents.networks.layers import keeps_small_factors, takes_grouped_parameters
from agents.precision import autocast, fastest_exact_float32, resolve_precision


class ActorCriticSettings(Protocol):
    """The settings that both learners need."""

    balancer: str
    balancer_kwargs: dict[str, Any] | None
    actor_balancer: str | None
    actor_balancer_kwargs: dict[str, Any] | None
    jacobian: str
    precision: str
    compile: bool
    max_skipped_updates: int


class ActorCriticAlgorithm(MultiTaskAlgorithm):
    """An algorithm that learns an actor and a critic, each from K losses that a balancer turns into one step.

    A subclass's `_setup_model` calls `_setup_machine`, builds policy and optimizers, and calls `_setup_learners`. It
    implements the two losses.
    """

    settings: Any  # has what `ActorCriticSettings` names
    batch_size: int  # transitions of one update, over all tasks
    actor: Any
    critic: Any
    actor_optimizer: torch.optim.Optimizer
    critic_optimizer: torch.optim.Optimizer
    guard: UpdateGuard
    _learners: tuple[Learner, ...] = ()

    @property
    def max_grad_norm(self) -> float | None:
        """The norm that gradients are clipped to; None does not clip. It may be changed while the agent learns."""
        return self._max_grad_norm

    @max_grad_norm.setter
    def max_grad_norm(self, limit: float | None) -> None:
        self._max_grad_norm = limit
        for learner in self._learners:
            learner.max_grad_norm = limit

    def _setup_machine(self) -> None:
        """Choose how this machine computes the updates."""
        settings: ActorCriticSettings = self.settings
        self.precision = resolve_precision(settings.precision, self.device)
        self.float32_mode = fastest_exact_float32(self.device)
        self._compiler = Compiler(graphs=self.device.type == "cuda") if settings.compile else None
        keep_freed_memory()
        self.metrics = UpdateMetrics()
        self.guard = UpdateGuard(settings.max_skipped_updates)

    def _setup_learners(self) -> None:
        settings: ActorCriticSettings = self.settings
        scratch = Scratch()
        name, options = settings.balancer, dict(settings.balancer_kwargs or {})
        critic = self._make_balancer(name, "critic balancer", options)
        actor_name, actor_options = settings.actor_balancer, dict(settings.actor_balancer_kwargs or {})
        is_same = actor_name is None and Needs.POSITIVE_LOSSES not in critic.needs
        if actor_name is None:
            actor_name, actor_options = (name, options) if is_same else ("unitary", {})
        own = self._make_balancer(actor_name, "actor balancer", actor_options)
        actor = balancer_of_actor(critic, own, (name, actor_name), is_same).to(self.device)
        self._learners = self.critic_learner, self.actor_learner = tuple(
            Learner(
                side,
                dict(module.named_parameters()),
                losses,
                balancer,
                optimizer,
                self._layout(setting, module, balancer, scratch),
                self.max_grad_norm,
            )
            for side, setting, module, losses, balancer, optimizer in (
                ("critic", "balancer", self.critic, self._critic_losses, critic, self.critic_optimizer),
                ("actor", "actor_balancer", self.actor, self._actor_losses, actor, self.actor_optimizer),
            )
        )

    @property
    def critic_balancer(self) -> Balancer:
        """What balances the critic's task losses."""
        return self.critic_learner.balancer

    @property
    def actor_balancer(self) -> Balancer:
        """What balances the actor's task losses."""
        return self.actor_learner.balancer

    def _make_balancer(self, name: str, stream: str, options: dict[str, Any]) -> Balancer:
        generator = self.generators.torch(stream)
        return make_balancer(name, num_tasks=self.num_tasks, generator=generator, **options).to(self.device)

    def _layout(self, setting: str, module: nn.Module, balancer: Balancer, scratch: Scratch) -> GradientLayout:
        """How the task gradients in a module's parameters are kept: as factors of its layers, or written out."""
        grouped, asked = takes_grouped_parameters(module), self.settings.jacobian
        if asked == "layerwise" and Needs.JACOBIAN in balancer.needs:
            raise ConfigurationError(
                f"jacobian='layerwise' holds no Jacobian, and the method of {setting} ({type(balancer).__name__}) "
                "needs the whole of it: choose jacobian='full' or 'auto'."
            )
        if asked == "layerwise" and not grouped:
            raise ConfigurationError(
                "jacobian='layerwise' needs a network made of layers that take grouped parameters "
                "(agents/networks/layers.py); this one has others: choose jacobian='full' or 'auto'."
            )
        free = asked == "auto" and grouped and keeps_small_factors(module) and Needs.JACOBIAN not in balancer.needs
        layerwise = asked == "layerwise" or (free and factors_pay(self.batch_size // self.num_tasks))
        expect_parameters(balancer, sum(parameter.numel() for parameter in module.parameters()))
        return GradientLayout(grouped, layerwise, scratch)

    def _critic_losses(self, parameters: dict[str, Tensor], *batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses of the critic ``[G]`` and metrics, as a pure function of its parameters."""
        raise NotImplementedError

    def _actor_losses(self, parameters: dict[str, Tensor], *batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses of the actor ``[G]`` and metrics, likewise."""
        raise NotImplementedError

    def _evaluate(self, function: Callable[..., Any], *arguments: Any, usual: bool) -> Any:
        """Target or losses in the agent's precision.

        Autocast covers the forward passes alone: the gradients follow in the precision each product was made in.

        :param usual: whether shapes and parameters are those of every update, so that compiling pays
        """
        with autocast(self.precision, self.device):
            if usual and self._compiler is not None:
                return self._compiler.call(function, *arguments)
            return function(*arguments)

    def _task_gradient_norms(self, side: str) -> Tensor:
        """Norms of the task gradients of the latest ``critic`` or ``actor`` step."""
        learner = self.critic_learner if side == "critic" else self.actor_learner
        return learner.latest_gradient_norms()

    @property
    def runtime(self) -> dict[str, Any]:
        """Sizes, and choices made from the machine, for the record of a run."""
        compiled = self._compiler is not None and not self._compiler.failed
        return {
            **super().runtime,
            "parameters": {"actor": _parameters(self.actor), "critic": _parameters(self.critic)},
            "precision": self.precision,
            "float32_matmul_precision": self.float32_mode,
            "compiled": compiled,
            "cuda_graphs": compiled and self._compiler is not None and self._compiler.graphs,
        }

    def remarks(self) -> list[str]:
        sides = (self.critic_balancer, self.actor_balancer)
        return list(dict.fromkeys(remark for side in sides for remark in side.remarks()))

    def dump_logs(self) -> None:
        self.logger.record(tags.SKIPPED_UPDATES, self.guard.state_dict()["skipped"])
        super().dump_logs()

    def state(self) -> dict[str, Any]:
        return {**super().state(), "guard": self.guard.state_dict()}

    def _restore(self, state: dict[str, Any]) -> None:
        super()._restore(state)
        self.guard.load_state_dict(state["guard"])


def _parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
