"""The balancers of the two sides of an agent, which belong together: one method for both, or one for each."""

from agents.balancing.allocation import Allocation
from agents.balancing.balancer import Balancer, Needs, Scheduler
from agents.balancing.composition import for_a_group
from agents.errors import ConfigurationError


def balancer_of_actor(critic: Balancer, own: Balancer, names: tuple[str, str], is_same: bool) -> Balancer:
    """The actor's balancer as it works beside the critic's: on the same tasks, by the same decision where that is one.

    :param critic: the critic's balancer
    :param own: the actor's, made for it alone
    :param names: of the two methods, for errors
    :param is_same: whether the actor has the critic's method because no other was named
    :raises ConfigurationError: for two methods that cannot work beside each other
    """
    critic_name, actor_name = names
    if Needs.POSITIVE_LOSSES in own.needs:
        raise ConfigurationError(
            f"actor_balancer='{actor_name}' takes logarithms or ratios of the losses, and actor losses may be "
            "negative: use it for the critic, with actor_balancer='unitary'."
        )
    if is_same:
        return critic.for_actor(own)
    if isinstance(own, Allocation):
        raise ConfigurationError(
            f"actor_balancer='{actor_name}' with weights_on='sampling' decides what is sampled, which critic and "
            f"actor have in common: give it as balancer='{actor_name}', or choose weights_on='loss'."
        )
    if isinstance(own, Scheduler) and not isinstance(critic, Scheduler):
        raise ConfigurationError(
            f"actor_balancer='{actor_name}' picks the tasks of an update, which critic and actor have in common: "
            f"give it as balancer='{actor_name}'."
        )
    if isinstance(critic, Allocation) and own.needs & Needs.TASK_GRADIENTS:
        raise ConfigurationError(
            f"balancer='{critic_name}' with weights_on='sampling' mixes the tasks of a batch, and actor_balancer="
            f"'{actor_name}' works on task gradients: choose weights_on='loss'."
        )
    return for_a_group(own) if isinstance(critic, Scheduler) else own
