"""Named random generators spawned from one seed. The global generators are never used."""

import zlib
from typing import Any

import numpy as np
import torch


class Generators:
    """One independent stream for each purpose, so that drawing more of one never shifts another.

    :param seed: the one number that fixes them all; None draws it from the operating system
    """

    def __init__(self, seed: int | None) -> None:
        self.seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed
        self._streams: dict[str, torch.Generator] = {}

    def torch(self, name: str, device: torch.device | str = "cpu") -> torch.Generator:
        """A new generator of the stream `name`, at its start."""
        # The name, not the order of calls, picks the stream: a new purpose leaves the others as they were.
        sequence = np.random.SeedSequence(self.seed, spawn_key=(zlib.crc32(name.encode()),))
        state = int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))
        self._streams[name] = torch.Generator(device=device).manual_seed(state)
        return self._streams[name]

    def state(self) -> dict[str, Any]:
        """Where every stream that was handed out stands now."""
        streams = {name: generator.get_state() for name, generator in self._streams.items()}
        return {"seed": self.seed, "streams": streams}

    def load_state(self, state: dict[str, Any]) -> None:
        """Undo `state`: the generators that were handed out continue from there.

        :raises KeyError: for a stream that the state does not know
        :raises ValueError: for the state of a generator on another kind of device
        """
        for name, generator in self._streams.items():
            if len(state["streams"][name]) != len(generator.get_state()):
                raise ValueError(f"its random numbers come from another kind of device than {generator.device.type}")
            generator.set_state(state["streams"][name])
        self.seed = state["seed"]
