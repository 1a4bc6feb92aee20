"""Off-screen images from MuJoCo, only when asked for: which OpenGL to use, and one camera per environment."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from typing import Any

import numpy as np

from .errors import SuiteError

CAMERA = "corner2"
SIZE = 480

_PROBE = "import mujoco; context = mujoco.GLContext(16, 16); context.make_current(); context.free()"


@functools.cache
def find_gl() -> str | None:
    """The first of EGL and OSMesa that can make a context on this machine (or the user's MUJOCO_GL); None if neither.

    Tried in a process of its own: a failed attempt leaves PyOpenGL bound to the wrong platform for good.
    """
    asked = os.environ.get("MUJOCO_GL", "").lower()
    for backend in [asked] if asked else ["egl", "osmesa"]:
        environment = {**os.environ, "MUJOCO_GL": backend}
        environment.pop("PYOPENGL_PLATFORM", None)
        probe = subprocess.run([sys.executable, "-c", _PROBE], env=environment, capture_output=True, timeout=60)
        if probe.returncode == 0:
            return backend
    return None


def choose_gl() -> str:
    """Decide on OpenGL for this process and its children, before anything imports it.

    :raises SuiteError: when no off-screen OpenGL works here.
    """
    backend = find_gl()
    if backend is None:
        asked = os.environ.get("MUJOCO_GL")
        because = f" (MUJOCO_GL={asked!r} does not work here)" if asked else ""
        raise SuiteError(
            f"images need off-screen OpenGL and neither EGL nor OSMesa works{because}: install one, "
            "for example `apt-get install libegl1` with a GPU driver or `apt-get install libosmesa6` without"
        )
    os.environ["MUJOCO_GL"] = backend
    if backend in ("egl", "osmesa"):
        os.environ["PYOPENGL_PLATFORM"] = backend
    return backend


class Camera:
    """One environment's own OpenGL context and scene, looking through a camera of the model."""

    def __init__(self, model: Any, data: Any, camera: str) -> None:
        import mujoco

        model.vis.global_.offwidth = max(model.vis.global_.offwidth, SIZE)
        model.vis.global_.offheight = max(model.vis.global_.offheight, SIZE)
        self._data, self._camera = data, camera
        self._renderer = mujoco.Renderer(model, SIZE, SIZE)

    def image(self) -> np.ndarray:
        """RGB [480, 480, 3] uint8. Meta-World's corner cameras are mounted upside down, so the image is turned."""
        self._renderer.update_scene(self._data, self._camera)
        return np.ascontiguousarray(self._renderer.render()[::-1, ::-1])

    def close(self) -> None:
        """Free the OpenGL context."""
        self._renderer.close()


def open_camera(model: Any, data: Any, camera: str = CAMERA) -> Camera:
    """A camera for one environment."""
    return Camera(model, data, camera)
