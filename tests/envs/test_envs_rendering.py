"""Images: opt-in, the same alone and in company, and one sentence when OpenGL is missing."""

import subprocess
import sys

import numpy as np
import pytest

from envs import SuiteError, list_suites, make_suite, rendering


@pytest.fixture
def opengl():
    # Asked for only when a test runs: the answer takes a process of its own.
    if rendering.find_gl() is None:
        pytest.skip("neither EGL (libegl1, libgl1) nor OSMesa (libosmesa6) works on this machine")


@pytest.mark.usefixtures("opengl")
def test_an_environment_looks_the_same_alone_in_company_and_in_a_worker(vec_env):
    tasks = ["reach-v3", "door-open-v3"]
    together = make_suite("metaworld", tasks=tasks)
    pictures = []
    for workers in (0, 2):
        env = vec_env(together, workers=workers, render_mode="rgb_array")
        env.reset()
        pictures.append(env.get_images())
    assert pictures[0][0].shape == (480, 480, 3) and pictures[0][0].std() > 10
    for task, here, there in zip(tasks, *pictures, strict=True):
        env = vec_env(make_suite("metaworld", tasks=[task]), render_mode="rgb_array")
        env.reset()
        assert np.array_equal(here, there) and np.array_equal(here, env.get_images()[0])


def test_without_opengl_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setattr(rendering, "find_gl", lambda asked="": None)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    with pytest.raises(SuiteError, match="neither EGL nor OSMesa works here.*apt-get install") as caught:
        rendering.choose_gl()
    assert "\n" not in str(caught.value)
    assert rendering.choose_gl(required=False) is None


def test_importing_envs_loads_neither_simulators_nor_torch():
    heavy = "{'metaworld', 'mujoco', 'torch', 'OpenGL'}"
    code = f"import sys, envs; envs.list_suites(); print(sorted({heavy} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_every_suite_has_one_line_about_it():
    suites = list_suites()
    assert set(suites) == {"mt10", "mt25", "mt50", "metaworld", "gym", "pointmass"}
    assert all(line and "\n" not in line for line in suites.values())


def test_images_that_cannot_be_drawn_are_refused_before_anything_is_built(monkeypatch, reach_and_push):
    monkeypatch.setattr(rendering, "find_gl", lambda asked="": None)
    with pytest.raises(SuiteError, match="images need off-screen OpenGL"):
        reach_and_push().make_vec_env(seed=0, workers=2, render_mode="rgb_array")
