"""Off-screen images from MuJoCo, only when asked for: which OpenGL to use, and one camera per environment."""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import subprocess
import sys
from typing import Any

import numpy as np

from .errors import SuiteError

CAMERA = "corner2"
SIZE = 480  # pixels, both ways
_MAX_GEOMS = 1000

_BACKENDS = ("egl", "osmesa")
_PROBE = (
    # GLFW only warns where there is no display: that a context is there is known when something is made in it.
    "import mujoco; context = mujoco.GLContext(16, 16); context.make_current(); "
    "model = mujoco.MjModel.from_xml_string('<mujoco/>'); "
    "mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100).free(); context.free()"
)


@functools.cache
def find_gl(asked: str = "") -> str | None:
    """The first of EGL and OSMesa that can make an OpenGL context on this machine; None if neither.

    Tried in a process of its own: a failed attempt leaves PyOpenGL bound to the wrong platform for good.

    :param asked: the only one to try, from the user's ``MUJOCO_GL``; a window system needs a display.
    """
    for backend in [asked] if asked else _BACKENDS:
        environment = {**os.environ, "MUJOCO_GL": backend}
        environment.pop("PYOPENGL_PLATFORM", None)
        command = [sys.executable, "-c", _PROBE]
        with contextlib.suppress(subprocess.SubprocessError):
            subprocess.run(command, env=environment, capture_output=True, check=True, timeout=60)
            return backend
    return None


def choose_gl(required: bool = True) -> str | None:
    """Decide on the OpenGL of this process and its children; call before anything draws.

    :param required: False where images may come without OpenGL: then nothing is decided when none works.
    :return: ``"egl"`` or ``"osmesa"`` (or the user's ``MUJOCO_GL``).
    :raises SuiteError: when no off-screen OpenGL works here.
    """
    asked = os.environ.get("MUJOCO_GL", "").lower()
    backend = find_gl(asked)
    if backend is None and not required:
        return None
    if backend is None:
        because = (
            f"MUJOCO_GL={asked!r} does not work here (unset it to have one chosen)"
            if asked
            else "neither EGL nor OSMesa works here"
        )
        raise SuiteError(
            f"images need off-screen OpenGL and {because}: `apt-get install libegl1 libgl1` (EGL) or "
            "`apt-get install libosmesa6` (OSMesa, software) provides it"
        )
    # Gymnasium's own renderer and PyOpenGL look at these when they first draw.
    os.environ["MUJOCO_GL"] = backend
    if backend in _BACKENDS:
        os.environ["PYOPENGL_PLATFORM"] = backend
    return backend


class Camera:
    """One environment's own OpenGL context and scene, looking through a fixed camera of its model.

    Built from MuJoCo's parts and not its ``Renderer``: that one is bound to the OpenGL found when mujoco was first
    imported, long before anybody asked for images. A context of its own keeps several environments in one process from
    drawing each other's textures.

    :param model: ``mujoco.MjModel``.
    :param data: ``mujoco.MjData`` to draw; read again for every image.
    :param camera: name of a camera of the model.
    """

    def __init__(self, model: Any, data: Any, camera: str = CAMERA) -> None:
        import mujoco

        backend = os.environ.get("MUJOCO_GL", "").lower() or choose_gl()  # decided already, by make_vec_env
        self._mujoco, self._model, self._data = mujoco, model, data
        model.vis.global_.offwidth = max(model.vis.global_.offwidth, SIZE)
        model.vis.global_.offheight = max(model.vis.global_.offheight, SIZE)
        self._gl = importlib.import_module(f"mujoco.{backend}").GLContext(SIZE, SIZE)
        self._gl.make_current()
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._scene, self._option = mujoco.MjvScene(model, _MAX_GEOMS), mujoco.MjvOption()
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._camera.fixedcamid = model.camera(camera).id
        self._frame = mujoco.MjrRect(0, 0, SIZE, SIZE)

    def image(self) -> np.ndarray:
        """What the camera sees now: RGB [480, 480, 3], uint8."""
        mujoco = self._mujoco
        everything = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(self._model, self._data, self._option, None, self._camera, everything, self._scene)
        self._gl.make_current()
        mujoco.mjr_render(self._frame, self._scene, self._context)
        pixels = np.empty((SIZE, SIZE, 3), np.uint8)
        mujoco.mjr_readPixels(pixels, None, self._frame, self._context)
        # OpenGL's first row is the lowest, and Meta-World's corner cameras hang upside down: the two flips that put
        # rows right cancel, the one of the columns remains.
        return np.ascontiguousarray(pixels[:, ::-1])

    def close(self) -> None:
        """Free the OpenGL context."""
        self._gl.make_current()
        self._context.free()
        self._gl.free()
