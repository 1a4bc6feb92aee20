"""A file of unknown origin is an agent, or is refused in one sentence; nothing is executed, written, or blown up."""

import copy
import io
import json
import os
import pickle
import resource
import zipfile

import hypothesis
import pytest
import torch
from hypothesis import strategies
from stable_baselines3 import SAC
from stable_baselines3.common.save_util import load_from_zip_file

from agents import MTSAC, AgentFileError, ConfigurationError, list_balancers
from agents.files.agent_file import read_agent
from agents.files.untrusted import UntrustedError, read_archive, read_json, read_tensors
from agents.networks import NETWORKS
from tests.agents.balancers.balancer_cases import GIVEN, RECORDED, recorded_run
from tests.grids import grid

PARTS = {"policy", "temperature", "reward_scale", "critic_balancer", "actor_balancer"}
PARTS |= {"actor_optimizer", "critic_optimizer", "temperature_optimizer"}


@pytest.fixture(scope="session")
def agent_bytes(tmp_path_factory):
    """The bytes of a small agent that has learnt."""
    from envs import make_suite

    with torch.random.fork_rng():
        env = make_suite("pointmass", num_tasks=4).make_vec_env(seed=0)
    small = {"learning_starts": 40, "batch_size": 16, "buffer_size": 400, "policy_kwargs": {"hidden_sizes": [8]}}
    small["reward_scale"] = "std"  # so that every part has state
    agent = MTSAC("MultiTaskPolicy", env, device="cpu", seed=0, balancer="dwa+pcgrad", **small)
    agent.learn(100, log_interval=None)
    path = tmp_path_factory.mktemp("agent") / "agent.zip"
    agent.save(path)
    return path.read_bytes()


@pytest.fixture
def forge(agent_bytes, tmp_path):
    """Writes the agent with other members, data or tensors; the file lies alone in a folder, and is returned."""
    folder = tmp_path / "forged"
    folder.mkdir()

    def make(members=None, data=None, tensors=None, compression=zipfile.ZIP_STORED):
        content = read_archive(io.BytesIO(agent_bytes))
        if data is not None:
            content["data"] = json.dumps(changed(json.loads(content["data"]), data)).encode()
        for name, change in (tensors or {}).items():
            value = torch.load(io.BytesIO(content[f"{name}.pth"]), weights_only=True)
            replaced = change(value)
            content[f"{name}.pth"] = saved(value if replaced is None else replaced)
        path = folder / "agent.zip"
        with zipfile.ZipFile(path, "w", compression) as archive:
            for name, part in {**content, **(members or {})}.items():
                if part is not None:
                    archive.writestr(name, part)
        return path

    return make


def changed(data, changes):
    for key, value in changes.items():
        data[key] = changed(data[key], value) if isinstance(value, dict) and isinstance(data.get(key), dict) else value
    return data


def saved(value, **options):
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def refusal(path, match="."):
    """The sentence with which a file is refused; its folder holds nothing but the file afterwards."""
    before = sorted(path.parent.parent.rglob("*"))
    with pytest.raises(AgentFileError, match=match) as refused:
        MTSAC.load(path, device="cpu")
    assert sorted(path.parent.parent.rglob("*")) == before
    sentence = str(refused.value)
    assert "\n" not in sentence and sentence.endswith(".") and len(sentence) < 700 and str(path) in sentence
    return sentence


# ---------------------------------------------------------------------- archives


@pytest.mark.parametrize(
    "name", ["../up.pth", "/etc/up.pth", "a/../../up.pth", "..", "a\\b.pth", "C:up.pth", "a//b", "a\nb"]
)
def test_a_member_with_a_name_that_leads_elsewhere_is_refused(forge, name):
    refusal(forge({name: b"x"}), "a member with the name")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name_are_refused(forge):
    path = forge()
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("data", "{}")
    refusal(path, "two members of one name")


def test_a_compressed_archive_is_refused_before_it_unfolds(forge):
    path = forge({"policy.pth": bytes(300_000_000)}, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1_000_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refusal(path, "is compressed, and could grow to any size")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


def test_a_compressed_archive_within_is_refused(forge):
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10_000_000))
    refusal(forge({"policy.pth": inner.getvalue()}), "is compressed")


def test_members_that_share_their_bytes_are_refused(forge):
    path = forge()
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b" "  # so that the directory is written anew
        for number in range(900):
            twin = copy.copy(archive.getinfo("policy.pth"))
            twin.filename = f"twin-{number}.pth"
            archive.filelist.append(twin)
    refusal(path, "its members overlap")


def test_links_special_files_and_crowds_are_refused(forge, tmp_path):
    link = zipfile.ZipInfo("link.pth")
    link.external_attr = 0o120777 << 16
    path = forge()
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    refusal(path, "encrypted or a link")
    refusal(forge({f"{number}.txt": b"" for number in range(1001)}), "at most 1000 are read")
    fifo = tmp_path / "forged" / "fifo.zip"
    os.mkfifo(fifo)  # opening it would wait for ever
    refusal(fifo, "no regular file")


# ---------------------------------------------------------------------- pickles and tensors


class Hostile:
    """Makes a folder where it is unpickled."""

    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return os.mkdir, (self.target,)


@pytest.mark.parametrize("part", ["policy", "critic_optimizer", "pytorch_variables"])
@pytest.mark.parametrize("old_format", [False, True])
def test_a_pickle_is_never_run(forge, tmp_path, part, old_format):
    trap = tmp_path / "sprung"
    content = saved({"x": Hostile(trap)}, _use_new_zipfile_serialization=not old_format)
    refusal(forge({f"{part}.pth": content}), "whole zip archive" if old_format else "holds no plain tensors")
    refusal(forge({f"{part}.pth": pickle.dumps(Hostile(trap))}))
    refusal(forge({"data": pickle.dumps(Hostile(trap))}), "JSON cannot be read")
    assert not trap.exists()
    torch.load(io.BytesIO(content), weights_only=False)
    assert trap.exists(), "the trap must work, or the test means nothing"


def nested(levels):
    value = [0]
    for _ in range(levels):
        value = [value] * 10
    return {"x": value}


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({"x": torch.zeros(1).expand(100_000, 100_000)}, "repeats its numbers"),
        ({"x": torch.zeros(2, 2).to_sparse()}, "no dense tensor|no plain tensors"),
        ({"x": torch.zeros(2, dtype=torch.complex64)}, "no dense tensor of plain numbers"),
        ({"x": torch.tensor([1.0, float("nan")])}, "'x' holds a number that is not finite"),
        ({"x": float("inf")}, "'x' is inf"),
        (nested(5), "nested beyond reason"),
        (nested(20), "nested beyond reason"),
        ({"x": {1, 2}}, "no plain tensors|of the type set"),
        ({(1, 2): 3}, "named by no text or number"),
    ],
    ids=["repeated", "sparse", "complex", "nan", "inf", "wide", "deep", "set", "key"],
)
def test_what_is_no_plain_tensor_is_refused(value, sentence):
    with pytest.raises(UntrustedError, match=sentence):
        read_tensors(saved(value), "'part'")


def test_numbers_that_are_not_finite_can_be_allowed_and_all_plain_types_are_read():
    value = {"x": torch.tensor([float("nan")]), "n": [1, 2.5, "text", None, True], 3: torch.zeros(2, dtype=torch.uint8)}
    read = read_tensors(saved(value), "'part'", finite=False)
    assert read["x"].isnan().all() and read["n"] == value["n"] and read[3].dtype == torch.uint8


def poison(path, value):
    def change(state):
        *keys, last = path
        for key in keys:
            state = state[key]
        state[last] = value(state[last])

    return change


def not_a_number(tensor):
    tensor = tensor.clone()
    tensor.view(-1)[0] = torch.nan
    return tensor


@pytest.mark.parametrize(
    ("part", "path"),
    [
        ("policy", ["critic.network.head.weight"]),
        ("temperature", ["log_alpha"]),
        ("critic_balancer", ["parts.0.history"]),
        ("actor_optimizer", ["state", 0, "exp_avg_sq"]),
    ],
)
@pytest.mark.parametrize("how", ["nan", "shape"])
def test_weights_that_are_no_numbers_or_of_other_shapes_are_refused(forge, part, path, how):
    change = not_a_number if how == "nan" else lambda tensor: tensor.new_zeros(*tensor.shape, 2)
    sentence = refusal(forge(tensors={part: poison(path, change)}))
    assert ("not finite" in sentence) == (how == "nan")


@pytest.mark.parametrize("names", [[], ["step", "exp_avg"], ["step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"]])
def test_moments_that_are_not_adams_are_refused(forge, names):
    def change(state):
        moments = state["state"][0]
        state["state"][0] = {name: moments.get(name, moments["step"]) for name in names}

    refusal(forge(tensors={"critic_optimizer": change}), "other moments")


def rewritten(path, part, change):
    """An agent's file with other tensors in one of its parts."""
    content = read_archive(path)
    state = torch.load(io.BytesIO(content[f"{part}.pth"]), weights_only=True)
    change(state)
    content[f"{part}.pth"] = saved(state)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def named(state, end):
    return next(name for name in state if name.endswith(end))


def replace(end, value):
    def change(state):
        state[named(state, end)] = value

    return change


# State that a balancer keeps, in a shape or a value that it can never have: its size depends on P, K or the past.
ODD_STATES = [
    ("moco", "memory.rows", torch.zeros(4, 7), r"memory.rows has shape \[4, 7\]"),
    ("moco", "memory.rows", torch.zeros(3, 0), "memory.rows has shape"),
    ("moco", "memory.clocks", torch.full((4,), -5.0), "clocks are negative"),
    ("db_mtl", "memory.rows", torch.zeros(2, 4, 7), "memory.rows has shape"),
    ("igb_v1+moco", "memory.rows", torch.zeros(4, 10**6), "memory.rows has shape"),
    ("son_goku:pcgrad", "memory.rows", torch.zeros(4, 7), "memory.rows has shape"),
    ("son_goku:pcgrad", "_extra_state", torch.tensor([0.0, 3, 0, 0, 0, 1, 1, 1, 1]), "turn 3 of 1 groups"),
    ("son_goku:pcgrad", "_extra_state", torch.tensor([0.0, 0, 0, 0, 0, 0, 0, 0, 0]), "turn 0 of 1 groups"),
    ("igb_v2", "memory._extra_state", torch.zeros(3, 9), "it remembers"),
    ("igb_v2", "memory.count", torch.tensor(10**9), "it remembers"),
    ("igb_rl", "record._extra_state", torch.zeros(3, 9), r"it records decisions of \[9\] numbers, not 17"),
    ("igb_rl_random", "shares._extra_state", torch.zeros(3), "it holds 3 numbers, and 27 tell where 4 tasks are"),
]


@pytest.mark.parametrize(("balancer", "name", "value", "sentence"), ODD_STATES)
def test_a_balancers_state_of_another_size_is_refused(small_agent, tmp_path, balancer, name, value, sentence):
    agent = small_agent(balancer=balancer)
    agent.learn(80, log_interval=None)
    (tmp_path / "alone").mkdir()
    path = tmp_path / "alone" / "agent.zip"
    agent.save(path)
    refusal(rewritten(path, "critic_balancer", replace(name, value)), sentence)
    paused = agent.state()
    replace(name, value)(paused["parts"]["critic_balancer"])
    with pytest.raises(ConfigurationError, match=f"not of this agent .*{sentence}"):
        small_agent(balancer=balancer).load_state(paused, agent._last_obs)


@pytest.mark.parametrize("network", sorted(NETWORKS))
@pytest.mark.parametrize("jacobian", ["full", "layerwise"])
def test_a_gradient_memory_is_as_long_as_the_parameters(small_agent, random_sample, network, jacobian):
    agent = small_agent(balancer="db_mtl", jacobian=jacobian, policy_kwargs={"network": network})
    sample = random_sample(agent)
    agent.update(sample, torch.zeros(2, *sample.actions.shape))
    memory = agent.critic_balancer.memory
    assert memory.rows.shape == (4, memory.num_parameters)


def test_the_state_of_a_run_is_refused_where_its_weights_or_moments_are_odd(small_agent):
    agent = small_agent()
    agent.learn(80, log_interval=None)
    for part, path, value, sentence in (
        ("policy", [-1], torch.tensor(torch.nan), "not finite"),
        ("critic_optimizer", ["state", 0, "exp_avg"], torch.zeros(1), "'exp_avg' of parameter 0 has shape"),
        ("critic_optimizer", ["state", 0, "exp_avg_sq"], torch.full((1,), torch.inf), "not finite"),
        ("critic_optimizer", ["state", 99], {}, "moments of parameter 99"),
    ):
        state = agent.state()
        *keys, last = path
        place = state["parts"][part]
        for key in keys:
            place = place[key]
        place[list(place)[-1] if last == -1 else last] = value
        with pytest.raises(ConfigurationError, match=sentence):
            small_agent().load_state(state, agent._last_obs)


@pytest.mark.parametrize("part", sorted(PARTS))
def test_a_file_without_one_of_its_parts_is_refused(forge, part):
    refusal(forge({f"{part}.pth": None}), f"one of the two lacks ..{part}")
    if part.endswith("balancer"):
        return  # that of the actor has no state
    refusal(forge(tensors={part: lambda state: {key: state[key] for key in list(state)[1:]}}), "does not fit")


def test_a_policy_of_another_size_is_refused_before_it_is_built(forge):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for widths in ([1_000_000, 1_000_000], [16], [8, 8]):
        refusal(forge(data={"settings": {"policy_kwargs": {"hidden_sizes": widths}}}), "has shape|KeyError")
    refusal(forge(data={"settings": {"policy_kwargs": {"num_critics": 10_000_000}}}), "has shape")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


# ---------------------------------------------------------------------- JSON

HUGE = 10**15


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"settings": {"balancer": "pcgard"}}, "Unknown balancer 'pcgard': .*did you mean 'pcgrad'"),
        ({"settings": {"policy_kwargs": {"network": "os.system"}}}, "Unknown network 'os.system'"),
        ({"settings": {"temperature": "per_robot"}}, "Unknown temperature 'per_robot'"),
        ({"settings": {"gama": 0.9}}, "does not take 'gama', did you mean 'gamma'"),
        ({"settings": {"gamma": [1]}}, "gamma must be"),
        ({"settings": {"policy_kwargs": {"hidden_sizes": "wide"}}}, "does not fit"),
        ({"settings": {"policy_kwargs": {"hidden_sizes": [HUGE]}}}, "'hidden_sizes' is 1e.15"),
        ({"settings": {"policy_kwargs": {"hidden_sizes": [8] * 2000}}}, "'hidden_sizes' has 2,000 entries"),
        ({"settings": {"balancer_kwargs": {"iteration_window": HUGE}}}, "'iteration_window' is 1e.15"),
        (
            {"settings": {"balancer_kwargs": {"dwa.iteration_window": 10**7}}},
            "iteration_window' is 1e.07, at most 2,500,000",
        ),
        (
            {"settings": {"balancer": "igb_v2", "balancer_kwargs": {"capacity": HUGE}}},
            "'capacity' is 1e.15",
        ),
        ({"settings": {"batch_size": HUGE * 4}}, "'batch_size' is 4e.15"),
        ({"settings": []}, "'settings' is missing or of the wrong kind"),
        ({"task_names": []}, "between 1 and 1000 different tasks, it names 0"),
        ({"task_names": ["a"] * 4}, "different tasks"),
        ({"task_names": [str(k) for k in range(5000)]}, "it names 5000"),
        ({"task_names": [1, 2, 3, 4]}, "a task is no text"),
        ({"task_names": ["a", "b"]}, "does not fit"),
        ({"num_timesteps": -1}, "num_timesteps is -1"),
        ({"n_updates": 10**40}, "n_updates is 1e.40"),
        ({"num_timesteps": True}, "of the wrong kind"),
        ({"observation_space": {"dtype": "object"}}, "does not fit"),
        ({"observation_space": {"low": [2.0] * 6}}, "does not fit"),
        ({"observation_space": {"low": [[0.0]]}}, "does not fit"),
        ({"action_space": {"high": []}}, "does not fit"),
        ({"action_space": {"low": None}}, "does not fit"),
    ],
    ids=str,
)
def test_data_that_nobody_means_are_refused(forge, data, sentence):
    refusal(forge(data=data), sentence)


@pytest.mark.parametrize(
    "text", [b"[" * 100_000, b"9" * 5000, b'{"a": ', b"\xff\xfe", b""], ids=["deep", "digits", "cut", "bytes", "empty"]
)
def test_texts_that_are_no_json_are_refused(forge, text):
    refusal(forge({"data": text}), "JSON cannot be read")


def test_a_text_that_is_too_long_is_refused():
    with pytest.raises(UntrustedError, match="16,000,001 bytes, at most"):
        read_json(b" " * 16_000_001)


# ---------------------------------------------------------------------- damage


def same(first, second):
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    return first == second


def is_refused_or_harmless(content, original, path):
    path.write_bytes(content)
    try:
        data, tensors = read_agent(path)
    except AgentFileError as error:
        assert "\n" not in str(error)
        return
    assert data == original[0] and same(tensors, original[1])


@pytest.fixture
def damaged(agent_bytes, tmp_path):
    path = tmp_path / "damaged.zip"
    path.write_bytes(agent_bytes)
    original = read_agent(path)

    def check(content):
        is_refused_or_harmless(content, original, path)

    return check


def bytes_of(content, places):
    content = bytearray(content)
    for place, bit in places:
        content[place % len(content)] ^= 1 << bit
    return bytes(content)


FLIP = strategies.tuples(strategies.integers(0, 10**7), strategies.integers(0, 7))  # place and bit


def flips_and_cuts(check, agent_bytes, examples):
    settings = hypothesis.settings(max_examples=examples, deadline=None, database=None, derandomize=True)

    @settings
    @hypothesis.given(strategies.lists(FLIP, min_size=1, max_size=4))
    def flipped(places):
        check(bytes_of(agent_bytes, places))

    @settings
    @hypothesis.given(strategies.integers(0, len(agent_bytes) - 1), strategies.binary(max_size=64))
    def cut(length, tail):
        check(agent_bytes[:length] + tail)

    flipped()
    cut()


def test_a_damaged_file_is_refused_or_read_as_it_was(damaged, agent_bytes):
    flips_and_cuts(damaged, agent_bytes, examples=60)
    for place in range(len(agent_bytes) - 800, len(agent_bytes), 9):  # the directory, where a flip says most
        damaged(bytes_of(agent_bytes, [(place, place % 8)]))


@pytest.mark.faults
def test_a_file_damaged_in_thousands_of_ways_is_refused_or_read_as_it_was(damaged, agent_bytes):
    flips_and_cuts(damaged, agent_bytes, examples=2000)
    for place in range(len(agent_bytes) - 2000, len(agent_bytes)):
        damaged(bytes_of(agent_bytes, [(place, place % 8)]))


# ---------------------------------------------------------------------- files in order


@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_the_agent_of_every_network_is_read_back(small_agent, fingerprint, tmp_path, network):
    agent = small_agent(policy_kwargs={"network": network})
    agent.save(tmp_path / "agent")
    assert fingerprint(MTSAC.load(tmp_path / "agent", device="cpu")) == fingerprint(agent)


@grid("balancer", [record.name for record in list_balancers()], always=["famo", "moco", "igb_rl", "igb_v2", "son_goku"])
def test_the_agent_of_every_balancer_is_read_back(small_agent, fingerprint, random_sample, tmp_path, balancer):
    options = GIVEN | {name: {"source": recorded_run(4)} for name in RECORDED}
    agent = small_agent(balancer=balancer, balancer_kwargs=options.get(balancer, {}), actor_balancer="unitary")
    sample = random_sample(agent)
    agent.update(sample, torch.zeros(2, *sample.actions.shape))
    agent.save(tmp_path / "agent")
    assert fingerprint(MTSAC.load(tmp_path / "agent", device="cpu")) == fingerprint(agent)


@pytest.mark.parametrize(
    "options",
    [
        {"learning_starts": 2 * 10**7},
        {"max_skipped_updates": 10**8},
        # Some tasks rest at an update, and a fixed temperature has no moments that could be kept for them.
        {"ent_coef": 0.1, "balancer": "static", "balancer_kwargs": {"weights": [3, 1, 0, 0], "weights_on": "sampling"}},
    ],
    ids=["warm-up of a long run", "never stops", "fixed temperature"],
)
def test_what_an_agent_accepts_it_can_read_back(small_agent, fingerprint, tmp_path, options):
    agent = small_agent(**options)
    agent.learn(80, log_interval=None)
    agent.save(tmp_path / "agent")
    assert fingerprint(MTSAC.load(tmp_path / "agent", device="cpu")) == fingerprint(agent)
    small_agent(**options).load_state(agent.state(), agent._last_obs)


def test_sb3s_own_reader_makes_the_same_of_it(small_agent, tmp_path, capsys):
    agent = small_agent().learn(100, log_interval=None)
    agent.save(tmp_path / "agent")
    data, tensors, variables = load_from_zip_file(tmp_path / "agent", device="cpu", print_system_info=True)
    assert data["settings"]["gamma"] == agent.gamma and data["task_names"] == list(agent.task_names)
    assert variables is None and tensors.keys() == PARTS and "Python" in capsys.readouterr().out
    assert all(same(dict(part.state_dict()), dict(tensors[name])) for name, part in agent._parts().items())


def test_sb3s_set_parameters_takes_the_tensors_of_a_file(small_agent, fingerprint, tmp_path):
    agent, other = small_agent().learn(100, log_interval=None), small_agent(seed=5)
    agent.save(tmp_path / "agent")
    other.set_parameters(tmp_path / "agent", device="cpu")
    assert fingerprint(other) == fingerprint(agent)


def test_sb3s_sac_does_not_take_it_for_one_of_its_own(small_agent, tmp_path):
    small_agent().save(tmp_path / "agent")
    # SB3 would need pickled spaces and a pickled policy class, which the file does not hold.
    with pytest.raises(ValueError, match="not a Gymnasium space"):
        SAC.load(tmp_path / "agent", device="cpu")
