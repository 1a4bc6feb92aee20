"""Named random generators spawned from one seed. The global generators are never used."""

import zlib

import numpy as np
import torch


class Generators:
    """One independent stream for each purpose, so that drawing more of one never shifts another.

    :param seed: the one number that fixes them all; None draws it from the operating system
    """

    def __init__(self, seed: int | None) -> None:
        self.seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed

    def torch(self, name: str, device: torch.device | str = "cpu") -> torch.Generator:
        """A new generator of the stream `name`, at its start."""
        # The name, not the order of calls, picks the stream: a new purpose leaves the others as they were.
        sequence = np.random.SeedSequence(self.seed, spawn_key=(zlib.crc32(name.encode()),))
        state = int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))
        return torch.Generator(device=device).manual_seed(state)
