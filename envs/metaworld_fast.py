"""Meta-World's environments, stepped in a fraction of the time, with the same bits in every number they return.

The time of a stock step goes mostly into Python: names looked up in the model at every use, every contact made into an
object, small vectors sent through general functions. :func:`fast_class` derives from a stock environment class one that

* remembers what a name stands for (:class:`NamedData`),
* takes the steps of the base class, ``SawyerXYZEnv``, in fewer operations (:class:`FastSteps`),
* runs the task's own reward and observation code as it is, with the arithmetic of ``metaworld_arithmetic`` underneath.

The stock classes and modules stay untouched. What is left out has no effect on observation, reward, success or info:
``mj_rnePostConstraint`` (contact forces on bodies, which nothing reads), target sites placed just before ``mj_forward``
places them again, and the physics of the first of the two placements of a reset.
"""

from __future__ import annotations

import sys
from functools import cache
from types import CellType, FunctionType, ModuleType
from typing import Any

import mujoco
import numpy as np
from metaworld.sawyer_xyz_env import SawyerXYZEnv
from metaworld.utils import reward_utils

from .metaworld_arithmetic import clip, substitutes

_tolerance, _norm = substitutes()["tolerance"], substitutes()["norm"]
_hamacher = reward_utils.hamacher_product


class NamedData(mujoco.MjData):
    """MuJoCo's data that looks up every name once. What a name stands for is a view, so it stays current."""

    def __init__(self, model: mujoco.MjModel) -> None:
        super().__init__(model)
        self._bodies: dict[str, Any] = {}
        self._geoms: dict[str, Any] = {}
        self._sites: dict[str, Any] = {}
        self._joints: dict[str, Any] = {}

    def body(self, name: str) -> Any:
        """As ``MjData.body``."""
        view = self._bodies.get(name)
        if view is None:
            view = self._bodies[name] = super().body(name)
        return view

    def geom(self, name: str) -> Any:
        """As ``MjData.geom``."""
        view = self._geoms.get(name)
        if view is None:
            view = self._geoms[name] = super().geom(name)
        return view

    def site(self, name: str) -> Any:
        """As ``MjData.site``."""
        view = self._sites.get(name)
        if view is None:
            view = self._sites[name] = super().site(name)
        return view

    def joint(self, name: str) -> Any:
        """As ``MjData.joint``."""
        view = self._joints.get(name)
        if view is None:
            view = self._joints[name] = super().joint(name)
        return view

    def forget(self) -> None:
        """Let go of the views: each of them holds the data that hold it, a cycle that Python cannot see and collect."""
        for views in (self._bodies, self._geoms, self._sites, self._joints):
            views.clear()


class FastSteps(SawyerXYZEnv):
    """What all tasks share in a step, under the names that ``SawyerXYZEnv`` gives it."""

    def _initialize_simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        model, _ = super()._initialize_simulation()
        data = NamedData(model)
        # Views of the simulator's own memory, by the names that every Sawyer model has.
        self._mocap_pos, self._mocap_quat, self._control = data.mocap_pos[0], data.mocap_quat, data.ctrl
        self._hand = data.body("hand").xpos
        self._claws = data.body("rightclaw").xpos, data.body("leftclaw").xpos
        self._pads = data.body("leftpad").xpos, data.body("rightpad").xpos
        self._tips = data.site("rightEndEffector").xpos, data.site("leftEndEffector").xpos
        self._pad_geoms = data.geom("leftpad_geom").id, data.geom("rightpad_geom").id
        self._body_positions: dict[str, np.ndarray] = {}
        self._rehearsal = False
        return model, data

    def close(self) -> None:
        self.data.forget()
        super().close()

    def get_endeff_pos(self) -> np.ndarray:
        return self._hand

    @property
    def tcp_center(self) -> np.ndarray:
        right, left = self._tips
        return (right + left) / 2.0

    def get_body_com(self, body_name: str) -> np.ndarray:
        position = self._body_positions.get(body_name)
        if position is None:
            position = self._body_positions[body_name] = self.data.body(body_name).xpos
        return position

    def step(self, action: np.ndarray) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        if not self._set_task_called or self.curr_path_length >= self.max_path_length or len(action) != 4:
            return super().step(action)  # which says what is wrong
        self.set_xyz_action(action[:3])
        self._control[0], self._control[1] = action[3], -action[3]
        mujoco.mj_step(self.model, self.data, nstep=self.frame_skip)
        self.curr_path_length += 1
        mujoco.mj_forward(self.model, self.data)
        space = self.sawyer_observation_space
        state = self._last_stable_obs = clip(self._get_obs(), space.low, space.high)
        reward, info = self.evaluate_state(state, action)
        return state.copy(), reward, False, self.curr_path_length == self.max_path_length, info

    def set_xyz_action(self, action: np.ndarray) -> None:
        target = self._mocap_pos + clip(action, -1, 1) * self.action_scale
        clip(target, self.mocap_low, self.mocap_high, out=self._mocap_pos)
        self._mocap_quat[:] = _MOCAP_QUAT

    def do_simulation(self, ctrl: Any, n_frames: int) -> None:
        self._control[:] = ctrl
        mujoco.mj_step(self.model, self.data, nstep=n_frames)

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        self._rehearsal = True
        return super().reset(seed, options)

    def _reset_hand(self, steps: int = 50) -> None:
        # The stock reset places everything twice, and each time first drives the hand to its start. Of the first time
        # remain the vector that was drawn and the positions in the model, which do not depend on where the hand is:
        # mj_resetData forgets the rest.
        if self._rehearsal:
            self._rehearsal = False
        else:
            self._mocap_pos[:], self._mocap_quat[:] = self.hand_init_pos, _MOCAP_QUAT
            self.do_simulation((-1.0, 1.0), steps * self.frame_skip)
        self.init_tcp = self.tcp_center

    def _get_obs(self) -> np.ndarray:
        goal = self._get_pos_goal()
        if self._partially_observable:
            goal = np.zeros_like(goal)
        current = self._get_curr_obs_combined_no_goal()
        state = np.concatenate((current, self._prev_obs, goal))
        self._prev_obs = current
        return state

    def _get_curr_obs_combined_no_goal(self) -> np.ndarray:
        positions, quaternions = self._get_pos_objects(), self._get_quat_objects()
        if (len(positions), len(quaternions)) not in _ONE_OR_TWO:
            return super()._get_curr_obs_combined_no_goal()
        right, left = self._claws
        apart = _norm(right - left) / 0.1
        current = np.zeros(18)
        current[:3] = self._hand
        current[3] = 1.0 if apart > 1.0 else apart
        current[4:7], current[7:11] = positions[:3], quaternions[:4]
        if len(positions) == 6:
            current[11:14], current[14:18] = positions[3:], quaternions[4:]
        return current

    def touching_object(self, object_geom_id: int) -> bool:
        left_pad, right_pad = self._pad_geoms
        left: Any = 0
        right: Any = 0
        contacts = self.data.contact
        for row, pair in enumerate(contacts.geom.tolist()):
            if object_geom_id in pair:
                if left_pad in pair:
                    left += self.data.efc_force[contacts.efc_address[row]]
                if right_pad in pair:
                    right += self.data.efc_force[contacts.efc_address[row]]
        return left > 0 and right > 0

    def _gripper_caging_reward(
        self,
        action: np.ndarray,
        obj_pos: np.ndarray,
        obj_radius: float,
        pad_success_thresh: float,
        object_reach_radius: float,
        xz_thresh: float,
        desired_gripper_effort: float = 1.0,
        high_density: bool = False,
        medium_density: bool = False,
    ) -> float:
        start: Any = self.obj_init_pos
        object_y, start_y = float(obj_pos[1]), float(start[1])
        sides = []
        for pad in self._pads:
            pad_y = float(pad[1])
            margin = abs(abs(pad_y - start_y) - pad_success_thresh)
            sides.append(_tolerance(abs(pad_y - object_y), (obj_radius, pad_success_thresh), margin, "long_tail"))
        center = self.tcp_center
        # [::2]: the coordinates x and z.
        margin_xz = _norm(start[::2] - self.init_tcp[::2]) - xz_thresh
        near_xz = _tolerance(_norm(center[::2] - obj_pos[::2]), (0, xz_thresh), margin_xz, "long_tail")
        caging = _hamacher(_hamacher(*sides), float(near_xz))
        closed = min(max(0, action[-1]), desired_gripper_effort) / desired_gripper_effort
        reward = _hamacher(caging, closed if caging > 0.97 else 0.0)
        if high_density:
            reward = (reward + caging) / 2
        if medium_density:
            margin_reach = abs(_norm(start - self.init_tcp) - object_reach_radius)
            reach = _tolerance(_norm(obj_pos - center), (0, object_reach_radius), margin_reach, "long_tail")
            reward = (reward + float(reach)) / 2
        return reward


_MOCAP_QUAT = np.array([1.0, 0.0, 1.0, 0.0])
_ONE_OR_TWO = {(3, 4), (6, 8)}  # sizes of the objects' positions and quaternions


@cache
def fast_class(stock: type) -> type:
    """A subclass of a stock environment class that returns the same bits sooner.

    :param stock: a class of ``metaworld.env_dict``, derived directly from ``SawyerXYZEnv``.
    """
    fast: type = type(stock.__name__, (FastSteps, stock), {})
    scope = _with_fast_names(sys.modules[stock.__module__], {stock.__name__: fast})
    for name, member in vars(stock).items():
        if name != "__init__" and (moved := _moved(member, scope, fast)) is not None:
            setattr(fast, name, moved)
    return fast


def _with_fast_names(module: ModuleType, names: dict[str, Any]) -> dict[str, Any]:
    """The global names of a task's module, with ours in place of the slow ones."""
    fast = substitutes()
    linalg = _copy(np.linalg, {"norm": fast["norm"]})
    rewards = {name: fast[name] for name in ("tolerance", "rect_prism_tolerance")}
    ours = {"np": _copy(np, {"linalg": linalg}), "reward_utils": _copy(reward_utils, rewards), **names}
    scope = dict(vars(module))
    if "Rotation" in scope:
        scope["Rotation"] = fast["Rotation"]
    return scope | ours


def _copy(module: ModuleType, changes: dict[str, Any]) -> ModuleType:
    copy = ModuleType(module.__name__)
    vars(copy).update(vars(module))
    vars(copy).update(changes)
    return copy


def _moved(member: Any, scope: dict[str, Any], owner: type) -> Any:
    """The same code with other global names, in the class ``owner``; None for what is not code."""
    if isinstance(member, property) and member.fget is not None:
        return property(_moved(member.fget, scope, owner))
    if isinstance(member, staticmethod):
        return staticmethod(_moved(member.__func__, scope, owner))
    if not isinstance(member, FunctionType):
        return None
    closure = dict(zip(member.__code__.co_freevars, member.__closure__ or (), strict=True))
    if member.__name__ == "inner":  # the decorator that asks whether the task was set, as our step does by itself
        return _moved(closure["func"].cell_contents, scope, owner)
    if "__class__" in closure:  # what super() starts from
        closure["__class__"] = CellType(owner)
    moved = FunctionType(member.__code__, scope, member.__name__, member.__defaults__, tuple(closure.values()))
    moved.__kwdefaults__ = member.__kwdefaults__
    return moved
