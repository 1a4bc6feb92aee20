"""How a critic's outputs become values and a loss. Scalar: one number, squared error."""

from torch import Tensor


class ScalarValue:
    """One output per critic is the value itself; the loss is half the squared TD error, summed over critics."""

    outputs = 1  # O, numbers that the network gives for each value

    def values(self, outputs: Tensor) -> Tensor:
        """``[E, G, B, 1] -> [E, G, B]``."""
        return outputs.squeeze(-1)

    def pessimistic(self, outputs: Tensor) -> Tensor:
        """Smallest of the E values ``[G, B]`` (clipped double Q, arXiv 1802.09477)."""
        return self.values(outputs).amin(0)

    def target(self, next_outputs: Tensor, rewards: Tensor, discounts: Tensor, entropy_bonus: Tensor) -> Tensor:
        """TD target ``r + gamma (1 - terminal) (min_e Q_e(s', a') - alpha log pi(a'|s'))``.

        :param next_outputs: target critics at the next state ``[E, K, B, 1]``
        :param rewards: ``[K, B]``
        :param discounts: ``gamma (1 - terminal)``, ``[K, B]``
        :param entropy_bonus: ``-alpha log pi``, ``[K, B]``
        """
        return rewards + discounts * (self.pessimistic(next_outputs) + entropy_bonus)

    def losses(self, outputs: Tensor, target: Tensor) -> Tensor:
        """``0.5 sum_e mean_b (Q_e - target)^2``: ``[E, G, B, 1], [G, B] -> [G]``."""
        return 0.5 * (self.values(outputs) - target).square().mean(-1).sum(0)
