"""What the study runs, as docs/results/verdict/protocol.md declares it: agents, methods, suites, blocks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

PILOT_SEEDS = (101, 102, 103)  # of settings and budgets; in no block that is compared
MTSAC, MTPPO = "mtsac", "mtppo"
PRIMARY = "final"

Overrides = tuple[str, ...]


@dataclass(frozen=True)
class Agent:
    """An agent of the study, with or without what conditions its critic.

    :param name: what its runs are called, ``agent.name``
    :param algorithm: the registered one
    :param settings: what differs from the conditioned agent of the same algorithm
    """

    name: str
    algorithm: str
    settings: Overrides = ()


CONDITIONED = {MTSAC: Agent("mtsac", MTSAC), MTPPO: Agent("mtppo", MTPPO)}
PLAIN = {
    # Raw rewards, no LayerNorm in the critics, and the temperature that fits raw rewards.
    MTSAC: Agent(
        "mtsac_plain", MTSAC, ("agent.reward_scale=none", "agent.critic_layer_norm=false", "agent.ent_coef=auto")
    ),
    # Values as they are, no LayerNorm in the critic.
    MTPPO: Agent("mtppo_plain", MTPPO, ("agent.critic=scalar", "agent.critic_layer_norm=false")),
}

_SCHEDULED = ("balancer.options.tau=0.25", "balancer.options.warmup=0", "balancer.options.anneal=0")
METHODS: dict[str, Overrides] = {
    "unitary": ("balancer=unitary",),
    "igb_rl": ("balancer=igb_rl", "balancer.options.learning=shipped"),
    "igb_rl_random": ("balancer=igb_rl_random",),
    "igb_v1_rl": ("balancer=igb_v1_rl",),
    "igb_v1_rl on losses": ("balancer=igb_v1_rl", "balancer.options.weights_on=loss"),
    "famo": ("balancer=famo",),
    "uncertainty": ("balancer=uncertainty",),
    "scale_invariant": ("balancer=scale_invariant",),
    "rlw": ("balancer=rlw",),
    "pcgrad": ("balancer=pcgrad",),
    "cagrad": ("balancer=cagrad",),
    "fairgrad": ("balancer=fairgrad",),
    "nash_mtl": ("balancer=nash_mtl",),
    "upgrad": ("balancer=upgrad",),
    "aligned_mtl": ("balancer=aligned_mtl",),
    "son_goku:unitary": ("balancer=son_goku:unitary", *_SCHEDULED),
    "son_goku:pcgrad": ("balancer=son_goku:pcgrad", *_SCHEDULED),
    "igb_rl+pcgrad": ("balancer=igb_rl+pcgrad", "balancer.options.igb_rl.weights_on=loss"),
    "fairgrad and pcgrad": ("balancer=fairgrad", "balancer.actor=pcgrad"),
}
BASELINE = "unitary"
CONTROLS = ("unitary", "igb_rl_random", "igb_v1_rl", "rlw")  # stay in every later block


@dataclass(frozen=True)
class Suite:
    """Tasks with the settings that the agents have there.

    :param name: what it is called in the study, and the folder of its runs
    :param settings: of each algorithm, without budget
    :param steps_per_task: budget of each algorithm
    """

    name: str
    settings: dict[str, Overrides]
    steps_per_task: dict[str, int]


_ALONE = ("threads=1", "env.workers=0", "evaluation.workers=0", "device=cpu", "tracking.tensorboard=false")
_QUIET = (*_ALONE, "tracking.progress=false", "tracking.plots=false", "evaluation.every_env_steps=null")
_POINTS = ("env=pointmass", "env.options.difficulty=0.5", "env.options.reward_scale_spread=100")
_FIVE = "env.tasks=[drawer-close-v3,reach-v3,door-open-v3,drawer-open-v3,push-v3]"


def _metaworld(*tasks: str) -> dict[str, Overrides]:
    return {
        MTSAC: ("experiment=mt10_laptop", *tasks, *_QUIET),
        MTPPO: ("experiment=mt10_minutes", *tasks, *_QUIET),
    }


SUITES = {
    "pointmass": Suite(
        "pointmass",
        {
            MTSAC: (
                *(*_POINTS, "agent=mtsac", *_QUIET, "env.horizon=20", "agent.gamma=0.9", "agent.learning_rate=1e-3"),
                *("agent.reward_scale=return", "agent.ent_coef=auto_0.01", "agent.target_entropy=auto_0.5"),
            ),
            MTPPO: (*_POINTS, "agent=mtppo", *_QUIET, "env.horizon=20"),
        },
        {MTSAC: 2_000, MTPPO: 20_000},
    ),
    "five": Suite("five", _metaworld("env=metaworld", _FIVE), {MTSAC: 40_000, MTPPO: 100_000}),
    "mt10": Suite("mt10", _metaworld(), {MTSAC: 60_000, MTPPO: 150_000}),
    "mt50": Suite("mt50", _metaworld("env=mt50"), {MTSAC: 60_000, MTPPO: 150_000}),
}


@dataclass(frozen=True)
class Block:
    """Runs that are a result of their own.

    :param name: what it is asked for by
    :param suite: name of its suite
    :param agents: which of them
    :param seeds: of every method; for pilots, those that no other block has
    :param methods: by name
    :param screen: the earlier block whose best methods join them
    :param best: how many others join, by the primary measure
    :param budgets: shares of the budget that are tried, for pilots
    """

    name: str
    suite: str
    agents: tuple[Agent, ...]
    seeds: tuple[int, ...]
    methods: tuple[str, ...]
    screen: str | None = None
    best: int = 0
    budgets: tuple[float, ...] = (1.0,)

    @property
    def pilot(self) -> bool:
        """Whether it chooses a budget and is compared with nothing."""
        return self.seeds == PILOT_SEEDS


_SOUND, _BARE = tuple(CONDITIONED.values()), tuple(PLAIN.values())
_ALL = tuple(METHODS)
_HALF = (len(METHODS) - len(CONTROLS)) // 2  # of what is no control goes on from the screen to the main block
_ONCE = (0.25, 0.5, 1.0, 2.0)


def _seeds(count: int) -> tuple[int, ...]:
    return tuple(range(1, count + 1))


BLOCKS = (
    Block("pointmass-pilot", "pointmass", _SOUND, PILOT_SEEDS, (BASELINE,), budgets=_ONCE),
    Block("pointmass-screen", "pointmass", _SOUND, _seeds(5), _ALL),
    Block("pointmass-plain", "pointmass", _BARE, _seeds(5), _ALL),
    Block("five-pilot", "five", _SOUND, PILOT_SEEDS, (BASELINE,)),
    Block("five-screen", "five", _SOUND, _seeds(5), _ALL),
    Block("mt10-pilot", "mt10", _SOUND, PILOT_SEEDS, (BASELINE,)),
    Block("mt10-main", "mt10", _SOUND, _seeds(10), CONTROLS, "five-screen", _HALF),
    Block("mt10-plain", "mt10", _BARE, _seeds(10), (BASELINE,), "five-screen", 2),
    Block("mt50-main", "mt50", _SOUND, _seeds(3), (BASELINE,), "mt10-main", 3),
)


def find_blocks(suite: str | None = None, name: str | None = None) -> list[Block]:
    """The blocks of a suite, or one block by name, in the order of the protocol.

    :raises ValueError: naming the known ones
    """
    if name is not None and name not in (known := [block.name for block in BLOCKS]):
        raise ValueError(f"block must be one of {', '.join(known)}, found {name!r}.")
    return [block for block in BLOCKS if name in (None, block.name) and suite in (None, block.suite)]


def points(block: Block, agent: Agent, methods: Sequence[str], seeds: Sequence[int]) -> Iterator[Overrides]:
    """The settings of every run of a block with one agent, as ``train.py`` takes them, seed by seed.

    :param methods: its methods, with the best of the screen
    """
    suite = SUITES[block.suite]
    common = (*suite.settings[agent.algorithm], *agent.settings, f"agent.name={agent.name}")
    for seed in seeds:
        for method in methods:
            for share in block.budgets:
                budget = f"env.steps_per_task={round(share * suite.steps_per_task[agent.algorithm])}"
                yield (*common, *METHODS[method], budget, f"seed={seed}")
