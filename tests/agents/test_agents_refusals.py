"""What an agent refuses, in one sentence that names the value and what would be right."""

import math

import numpy as np
import pytest

from agents import MTSAC, ConfigurationError

REFUSED = [
    ({"use_sde": True}, "does not take 'use_sde': .*gSDE"),
    ({"sde_sample_freq": 4}, "does not take 'sde_sample_freq': .*gSDE"),
    ({"n_steps": 3}, "does not take 'n_steps': TD targets look one step ahead"),
    ({"optimize_memory_usage": True}, "does not take 'optimize_memory_usage': "),
    ({"replay_buffer_class": None}, "does not take 'replay_buffer_class': .*one ring per task"),
    ({"action_noise": None}, "does not take 'action_noise': the policy is stochastic"),
    ({"target_update_interval": 2}, "does not take 'target_update_interval': .*tau"),
    ({"batchsize": 32}, "does not take 'batchsize', did you mean 'batch_size'"),
    ({"policy_kwargs": {"net_arch": [3]}}, "policy_kwargs does not take 'net_arch'"),
    ({"policy_kwargs": {"hiden_sizes": [3]}}, "policy_kwargs does not take 'hiden_sizes', did you mean 'hidden_sizes'"),
    ({"policy_kwargs": {"num_critics": 0}}, "num_critics must be at least 1, found 0"),
    ({"policy_kwargs": {"network": "mpl"}}, "Unknown network 'mpl': .*did you mean 'mlp'"),
    ({"buffer_size": 0}, "buffer_size must be a whole number of at least 1, found 0"),
    ({"buffer_size": 3}, "buffer_size=3 leaves 0 transitions for each of 4 tasks"),
    ({"learning_starts": -1}, "learning_starts must be a whole number of at least 0, found -1"),
    ({"batch_size": 0}, "batch_size must be a positive multiple of the number of tasks, found 0"),
    ({"batch_size": -4}, "batch_size must be a positive multiple of the number of tasks, found -4"),
    ({"batch_size": 8.0}, "batch_size must be .* found 8.0"),
    ({"batch_size": 7}, "batch_size=7 counts the transitions of all 4 tasks .* such as 8"),
    ({"train_freq": 0}, "train_freq must be a whole number of at least 1, found 0"),
    ({"train_freq": (1, "episode")}, "train_freq must be a whole number .* found"),
    ({"max_skipped_updates": 0}, "max_skipped_updates must be a whole number of at least 1, found 0"),
    ({"gradient_steps": -1}, "gradient_steps must be a whole number of at least 0, found -1"),
    ({"gradient_steps": True}, "gradient_steps must be a whole number of at least 0, found True"),
    ({"gamma": 1.01}, "gamma must be a number above 0 and at most 1, found 1.01"),
    ({"gamma": math.nan}, "gamma must be a number above 0 and at most 1, found nan"),
    ({"tau": 0.0}, "tau must be a number above 0 and at most 1, found 0.0"),
    ({"tau": "slow"}, "tau must be a number above 0 and at most 1, found 'slow'"),
    ({"learning_rate": -1e-3}, "learning_rate must be a number of at least 0, or a schedule, found -0.001"),
    ({"adam_epsilon": -1.0}, "adam_epsilon must be a number of at least 0, found -1.0"),
    ({"actor_weight_decay": -1.0}, "actor_weight_decay must be a number of at least 0, found -1.0"),
    ({"max_grad_norm": 0.0}, "max_grad_norm must be a number above 0, or None for no clipping, found 0.0"),
    ({"target_entropy": "atuo"}, "target_entropy must be 'auto', .* or a number in nats, found 'atuo'"),
    ({"target_entropy": "auto_"}, "target_entropy must be 'auto', a share of it .* found 'auto_'"),
    ({"target_entropy": math.inf}, "target_entropy must be .* found inf"),
    ({"weight_decay": -1.0}, "weight_decay must be a number of at least 0, found -1.0"),
    ({"weight_decay": 0.1, "actor_weight_decay": 0.2}, "exclude each other, found 0.1 and 0.2"),
    ({"temperature_beta1": 1.0}, "temperature_beta1 must be a number of at least 0 and at most 0.999, found 1.0"),
    ({"policy_kwargs": {"critic": "categoric"}}, "Unknown critic 'categoric': .*did you mean 'categorical'"),
    ({"policy_kwargs": {"critic_kwargs": {"num_atoms": 3}}}, "Unknown option of critic 'scalar' 'num_atoms'"),
    ({"policy_kwargs": {"ensemble_reduction": "max"}}, "Unknown ensemble_reduction 'max': choose from mean, min"),
    ({"policy_kwargs": {"log_std": "clip"}}, "Unknown log_std 'clip': choose from clamp, tanh"),
    ({"policy_kwargs": {"task_id": "critic_embeding"}}, "Unknown task_id .*did you mean 'critic_embedding'"),
    ({"policy_kwargs": {"network": "bronet", "hidden_sizes": [8, 4]}}, "hidden_sizes must be equal widths"),
    ({"ent_coef": "automatic"}, "ent_coef must be 'auto'.* found 'automatic'"),
    ({"temperature": "per-task"}, "Unknown temperature 'per-task': .*did you mean 'per_task'"),
    ({"reward_scale": "standard"}, "Unknown reward_scale 'standard': choose from none, return, std"),
    ({"precision": "float16"}, "Unknown precision 'float16': .*did you mean"),
    ({"balancer": "unitry"}, "Unknown balancer 'unitry': .*did you mean 'unitary'"),
    ({"balancer": "static"}, "Balancer 'static' needs the option 'weights'"),
    ({"balancer": "rlw", "balancer_kwargs": {"c": 1}}, "Balancer 'rlw' has no option 'c': it takes distribution"),
    ({"actor_balancer": "rlw+"}, "Unknown balancer ''"),
]


@pytest.mark.parametrize(("options", "sentence"), REFUSED, ids=[str(options) for options, _ in REFUSED])
def test_what_cannot_work_is_refused_in_one_sentence(small_agent, options, sentence):
    with pytest.raises(ConfigurationError, match=sentence) as refusal:
        small_agent(**options)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "options",
    [
        {"learning_starts": np.int64(40)},
        {"gamma": np.float32(0.9)},
        {"gamma": 1},
        {"max_grad_norm": None},
        {"tau": 1.0},
    ],
    ids=str,
)
def test_numbers_of_numpy_and_the_ends_of_ranges_are_taken(small_agent, options):
    assert small_agent(**options).learn(80, log_interval=None)._n_updates > 0


def test_without_a_batch_size_every_task_gives_32_samples(small_agent):
    assert small_agent(batch_size=None).batch_size == 128


def test_a_balancer_that_needs_positive_losses_balances_no_actor(small_agent):
    from agents import Needs, Weighting, register_balancer
    from agents.balancing.registry import BALANCERS

    @register_balancer("only_positive", family="loss", cost="O(1)", paper="none", summary="for this test")
    class OnlyPositive(Weighting):
        needs = Needs.POSITIVE_LOSSES

        def forward(self, tasks):
            return 1 / tasks.losses

    try:
        agent = small_agent(balancer="only_positive")
        assert type(agent.actor_balancer).__name__ == "Unitary"
        with pytest.raises(ConfigurationError, match="actor_balancer='only_positive' .* actor_balancer='unitary'"):
            small_agent(actor_balancer="only_positive")
    finally:
        del BALANCERS._records["only_positive"]


def test_a_cuda_device_that_is_not_here_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"device must be .* found 'cuda:99'\."):
        MTSAC("MultiTaskPolicy", None, device="cuda:99")
