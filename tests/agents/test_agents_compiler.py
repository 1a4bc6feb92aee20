"""Compiled updates: the same agent up to rounding, equal in bits to themselves, and the plain ones where need be."""

import contextlib
import copy
import pickle
import random
import warnings
from unittest import mock

import numpy as np
import pytest
import torch

from agents import MTSAC
from agents.compiler import Compiler
from tests.grids import grid

# One kind of agent, because every kind costs its compilation once.
KIND = {"policy_kwargs": {"network": "multihead", "critic_layer_norm": True}}


@pytest.fixture
def learnt(small_agent):
    """Maker of agents that have learnt for a number of env steps."""

    def make(env_steps=200, compile=True, **options):
        agent = small_agent(**{"compile": compile, **KIND, **options})
        agent.learn(env_steps, log_interval=None)
        return agent

    return make


@contextlib.contextmanager
def without_compiler(folder, instead="no-compiler"):
    """Context with something else in the C++ compiler's place, and without anything that was compiled before."""
    from torch._inductor import config

    with (
        config.patch({"cpp.cxx": (None, str(folder / instead))}),
        mock.patch.dict("os.environ", {"TORCHINDUCTOR_CACHE_DIR": str(folder)}),
    ):
        yield


def weights(agent):
    return torch.cat([parameter.detach().flatten() for parameter in agent.policy.parameters()])


def test_a_compiled_agent_is_the_same_up_to_rounding(small_agent, learnt):
    before = weights(small_agent(**KIND))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        compiled = learnt()
    plain = learnt(compile=False)
    assert plain._n_updates == compiled._n_updates > 30
    assert (weights(plain) - before).abs().max() > 1e-3
    assert not torch.equal(weights(compiled), weights(plain)), "nothing was compiled"
    torch.testing.assert_close(weights(compiled), weights(plain), rtol=1e-4, atol=1e-5)


def test_two_compiled_agents_are_equal_in_bits_and_touch_no_global_generator(learnt, fingerprint):
    before = (random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().tolist())  # noqa: NPY002
    first, second = learnt(), learnt()
    assert fingerprint(first) == fingerprint(second)
    assert before == (random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().tolist())  # noqa: NPY002


def test_a_compiled_agent_that_is_saved_and_loaded_goes_on_compiled(learnt, pointmass, tmp_path):
    agent = learnt()
    agent.save(tmp_path / "agent.zip")
    loaded = MTSAC.load(tmp_path / "agent.zip", env=pointmass(), device="cpu")
    observations = agent.env.reset()
    actions = [one.predict(observations, deterministic=True)[0] for one in (agent, loaded)]
    assert np.array_equal(*actions)
    loaded.learn(100, log_interval=None, reset_num_timesteps=False)
    assert loaded._n_updates > agent._n_updates
    assert loaded.runtime["compiled"]


@grid("balancer", ["cagrad", "pcgrad+son_goku", "famo"], always=["pcgrad+son_goku"])
def test_task_gradients_and_groups_of_tasks_learn_the_same(learnt, balancer):
    compiled, plain = learnt(balancer=balancer), learnt(balancer=balancer, compile=False)
    assert compiled.runtime["compiled"] and not plain.runtime["compiled"]
    torch.testing.assert_close(weights(compiled), weights(plain), rtol=1e-3, atol=1e-4)


def test_without_a_compiler_it_says_so_once_and_learns_the_plain_agent_to_the_bit(learnt, fingerprint, tmp_path):
    others = {"policy_kwargs": {"hidden_sizes": [8, 8]}}  # a kind that no other test has compiled
    with pytest.warns(UserWarning, match="could not be compiled") as caught, without_compiler(tmp_path):
        agent = learnt(**others)
    [warning] = [w for w in caught if "compiled" in str(w.message)]
    assert "No working C++ compiler found" in str(warning.message)
    assert "\n" not in str(warning.message)
    assert not agent.runtime["compiled"]
    assert fingerprint(agent) == fingerprint(learnt(compile=False, **others))


def compiler_that(folder, what):
    """Context with a C++ compiler that does something else before it compiles."""
    script = folder / "compiler"
    script.write_text(f'#!/bin/sh\ncase "$*" in *.cpp*) {what};; esac\nexec g++ "$@"\n')
    script.chmod(0o755)
    return without_compiler(folder, script)


def test_a_compiler_that_a_signal_ends_is_called_again(tmp_path):
    once = f'if [ ! -e "{tmp_path}/killed" ]; then touch "{tmp_path}/killed"; kill -INT $$; fi'
    with compiler_that(tmp_path, once):
        compiler = Compiler()
        result = compiler.call(lambda value: value.sin() + 41.0, torch.ones(3))
    assert (tmp_path / "killed").exists() and not compiler.failed
    torch.testing.assert_close(result, torch.ones(3).sin() + 41.0)


def test_what_the_compiler_complains_of_is_said(tmp_path):
    complaint = "fatal error: Python.h: No such file or directory"
    with (
        compiler_that(tmp_path, f'echo "In file included from here:"; echo "{complaint}"; exit 1'),
        pytest.warns(UserWarning, match=rf"could not be compiled \(CalledProcessError: {complaint}\)"),
    ):
        assert torch.equal(Compiler().call(lambda value: value * 43.0, torch.ones(3)), torch.full((3,), 43.0))


def test_a_pytorch_without_one_of_the_options_is_no_compiler():
    with (
        mock.patch("agents.compiler._compile", side_effect=AttributeError("no such option")),
        pytest.warns(UserWarning, match="no such option"),
    ):
        assert Compiler().call(torch.neg, torch.ones(1)).item() == -1.0


def test_the_backward_pass_is_compiled_with_the_forward_pass(tmp_path):
    weight = torch.tensor([2.0, 3.0], requires_grad=True)
    compiler = Compiler()
    result = compiler.call(lambda weight: (weight * weight.sin()).sum(), weight)
    with without_compiler(tmp_path):
        result.backward()
    assert not compiler.failed
    torch.testing.assert_close(weight.grad, weight.detach().sin() + weight.detach() * weight.detach().cos())


def test_cuda_graphs_are_asked_for_on_an_accelerator_alone(learnt):
    with mock.patch("torch.compile", side_effect=lambda function, **options: function) as compiling:
        for graphs in (False, True):
            Compiler(graphs).call(torch.neg, torch.ones(1))
    assert [call.kwargs["mode"] for call in compiling.call_args_list] == ["default", "reduce-overhead"]
    assert not learnt(env_steps=0)._compiler.graphs


def test_results_of_a_graph_outlive_its_next_replay():
    memory = torch.zeros(1)  # a graph writes all its results to the same place
    compiler = Compiler(graphs=True)
    with mock.patch("agents.compiler._compile", side_effect=lambda function, graphs: lambda x: (memory.copy_(x), "m")):
        first, second = (compiler.call(torch.neg, torch.full((1,), value)) for value in (1.0, 2.0))
    assert (first[0].item(), second[0].item()) == (1.0, 2.0)


def test_what_cannot_be_captured_is_compiled_without_graphs_and_says_so_once():
    def compile_(function, graphs):
        def fails(*arguments):
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nand a page more")

        return fails if graphs else function

    compiler = Compiler(graphs=True)
    with (
        mock.patch("agents.compiler._compile", side_effect=compile_),
        pytest.warns(UserWarning, match=r"CUDA graphs \(RuntimeError: CUDA error: .* is capturing\):") as caught,
    ):
        results = [compiler.call(torch.neg, torch.ones(1)).item() for _ in range(2)]
    assert results == [-1.0, -1.0] and len(caught) == 1
    assert not compiler.failed and not compiler.graphs


def test_a_compiler_is_copied_and_pickled_without_what_it_compiled(learnt):
    compiler = pickle.loads(pickle.dumps(copy.deepcopy(learnt()._compiler)))
    assert compiler.call(torch.neg, torch.ones(1)).item() == -1.0
    assert not compiler.failed


def test_an_error_of_the_function_itself_stays_what_it_is():
    def refuses(values):
        if values.shape[0] == 3:
            raise ValueError("three are too many")
        return values * 2

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with pytest.raises(ValueError, match="three are too many"):
            Compiler().call(refuses, torch.ones(3))
