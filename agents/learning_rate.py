"""A learning rate that keeps the policy's steps at a wanted size."""

FACTOR = 1.5


def adapted_to_kl(
    learning_rate: float, kl: float, desired_kl: float, lowest: float = 1e-5, highest: float = 1e-2
) -> float:
    """The next learning rate: lower after steps more than twice too far, higher after steps less than half as far.

    Source: the adaptive schedule of rl_games and rsl_rl, with their factor.

    :param kl: mean divergence of the new policy from the one that acted, in nats
    :param desired_kl: what it should be
    :param lowest: the smallest learning rate
    :param highest: the largest one
    """
    if kl > 2.0 * desired_kl:
        learning_rate /= FACTOR
    elif kl < 0.5 * desired_kl:
        learning_rate *= FACTOR
    return min(max(learning_rate, lowest), highest)
