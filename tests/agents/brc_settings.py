"""`agent=brc` as keyword arguments of an agent small enough for tests."""

BRC_POLICY = {
    "network": "bronet",
    "task_id": "critic_embedding",
    "hidden_sizes": [16, 16],
    "actor_hidden_sizes": [8],
    "log_std": "tanh",
    "critic": "categorical",
    "critic_kwargs": {"num_atoms": 21},
    "ensemble_reduction": "mean",
    "network_kwargs": {"embedding_size": 3},
}
BRC = {
    "policy_kwargs": BRC_POLICY,
    "temperature": "shared",
    "ent_coef": "auto_0.1",
    "target_entropy": "auto_0.5",
    "temperature_beta1": 0.5,
    "reward_scale": "return",
    "weight_decay": 1e-4,
    "max_grad_norm": None,
    "gradient_steps": 2,
}
