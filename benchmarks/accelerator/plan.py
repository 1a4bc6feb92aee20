"""The parts: what each measures, and how long it may take. Imports nothing, so that it works before anything is there.

The limits add up to the eight minutes; a part that ends sooner leaves its time to nobody.
"""

from dataclasses import dataclass

SECONDS = 480  # of all parts together
CORES = (4, 8, 16)  # that the choices of threads and workers are measured for


@dataclass(frozen=True)
class Part:
    """What one process measures.

    :param name: on the command line, and of its file of rows
    :param title: above its table
    :param limit: seconds, start of the process included
    :param cores: that the process is bound to; None for all
    """

    name: str
    title: str
    limit: float
    cores: int | None = None


PARTS = (
    Part("checks", "Determinism, resumption and the guard", 15),
    Part("updates", "An update of MTSAC", 25),
    Part("mtppo", "An update of MTPPO", 10),
    Part("balancers", "An update of MTSAC with every balancer: 3x400, 128 samples per task", 40),
    Part("env_steps", "Environment steps per second, random actions", 25),
    Part("end_to_end", "Training, simulation included", 30),
    *(
        Part(f"choices_{cores}", f"Threads and workers on {cores} cores: MT10, agent=mtsac", 15, cores)
        for cores in CORES
    ),
    Part("compiled", "A compiled update, and one captured as CUDA graphs", 50),
    Part("training", "Four minutes of MT10: experiment=mt10_laptop", 240),
)
