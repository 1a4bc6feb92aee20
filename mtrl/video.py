"""One MP4 that shows an episode of every task side by side, with names and success marks."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from envs import MultiTaskVecEnv, TaskSuite
from mtrl.errors import ConfigError, MissingExtra
from mtrl.evaluation import Policy, refuse_tasks_not_learnt
from mtrl.machine import available_cores
from mtrl.places import require_file

TILE = 240  # pixels
_BAR = 24  # height of the caption below a picture
_FPS = 15
_MOST_FRAMES = 120  # eight seconds; drawing is most of the work where no GPU does it
_LINGER = _FPS  # frames shown after the last task has ended
_OPEN, _SOLVED, _FAILED = (70, 70, 70), (0, 128, 96), (178, 66, 0)  # caption colours, told apart by brightness too

Frame = np.ndarray  # uint8 [height, width, 3]


def write_mosaic(model: Policy, suite: TaskSuite, path: Path, *, seed: int = 0, horizon: int | None = None) -> Path:
    """Run one episode of every task and write it as MP4.

    A task's picture stands still once it is solved or its episode has ended.

    :param model: a trained agent, or anything with SB3's ``predict``
    :param suite: the tasks
    :param path: the file to write
    :param seed: fixes the goals; the first of each task is shown
    :param horizon: steps per episode; None is the suite's own
    :raises MissingExtra: if the packages of the extra `video` are not installed
    :raises ConfigurationError: for other tasks than the model has learnt
    :raises ConfigError: if the file cannot be written, before anything is simulated
    :raises SuiteError: if the machine cannot draw off-screen, with what to install
    """
    imageio = require_imageio()
    refuse_tasks_not_learnt(model, suite.task_names)
    require_file(path, "path")
    cores = available_cores()
    env = suite.make_vec_env(
        seed=seed,
        workers=0 if cores == 1 else cores,
        goal_order="sweep",
        horizon=horizon,
        render_mode="rgb_array",
    )
    try:
        frames = _mosaic_frames(model, env)
        first = next(frames)  # before the file is opened: where nothing can be drawn, no file is left behind
        with imageio.get_writer(path, fps=_FPS, codec="libx264", quality=7, macro_block_size=2) as writer:
            writer.append_data(first)
            for frame in frames:
                writer.append_data(frame)
    finally:
        env.close()
    return path


def require_imageio() -> Any:
    """The package that writes videos.

    :raises MissingExtra: if it is not installed
    """
    try:
        import imageio.v2 as imageio
        import imageio_ffmpeg  # noqa: F401
    except ImportError as error:
        raise MissingExtra(
            f"A video needs {error.name}, which is not installed: pip install 'mtrl-toolkit[video]'."
        ) from error
    return imageio


def _mosaic_frames(model: Policy, env: MultiTaskVecEnv) -> Iterator[Frame]:
    """One frame for every few steps, until every task has ended."""
    observations: Any = env.reset()
    stride = math.ceil(env.horizon / _MOST_FRAMES)
    pictures = _pictures(env)
    solved, ended = np.zeros(env.num_envs, dtype=bool), np.zeros(env.num_envs, dtype=bool)
    yield mosaic(pictures, env.task_names, solved, ended)
    step = 0
    while not (ended | solved).all():
        actions, _ = model.predict(observations, deterministic=True)
        env.step_async(actions)
        observations, _, dones, infos = env.step_wait()
        step += 1
        running = ~(ended | solved)
        solved |= running & np.array([info["success"] for info in infos])
        ended |= dones  # the environment shows its next episode from here on
        if step % stride == 0 or (ended | solved).all():
            for i, picture in enumerate(_pictures(env)):
                pictures[i] = picture if running[i] and not ended[i] else pictures[i]
            yield mosaic(pictures, env.task_names, solved, ended)
    for _ in range(_LINGER):
        yield mosaic(pictures, env.task_names, solved, ended)


def _pictures(env: MultiTaskVecEnv) -> list[Frame]:
    pictures = env.get_images()
    if any(picture is None for picture in pictures):
        raise ConfigError("These tasks cannot be drawn: the simulator returned no image.")
    return [_resize(picture) for picture in pictures if picture is not None]


def _resize(picture: Frame) -> Frame:
    from PIL import Image

    return np.asarray(Image.fromarray(picture).resize((TILE, TILE), Image.Resampling.BILINEAR))


def mosaic(pictures: Sequence[Frame], names: Sequence[str], solved: np.ndarray, ended: np.ndarray) -> Frame:
    """All pictures in a grid about as wide as a screen, each with its caption.

    :param pictures: one per task, uint8 ``[TILE, TILE, 3]``
    :param names: task names
    :param solved: tasks that have succeeded, bool ``[K]``
    :param ended: tasks whose episode is over, bool ``[K]``
    :return: uint8 ``[rows * (TILE + caption), columns * TILE, 3]``
    """
    rows, columns = _grid(len(pictures))
    height = TILE + _BAR
    canvas = np.zeros((rows * height, columns * TILE, 3), dtype=np.uint8)
    for i, (picture, name) in enumerate(zip(pictures, names, strict=True)):
        top, left = i // columns * height, i % columns * TILE
        canvas[top : top + TILE, left : left + TILE] = picture
        canvas[top + TILE : top + height, left : left + TILE] = _caption(name, bool(solved[i]), bool(ended[i]))
    return canvas


def _grid(tiles: int) -> tuple[int, int]:
    """Rows and columns: at least as wide as high, with as few empty places as that allows."""
    square = math.ceil(math.sqrt(tiles))
    _, columns = min((-tiles % columns, columns) for columns in range(square, math.ceil(1.7 * square) + 1))
    return math.ceil(tiles / columns), columns


def _caption(name: str, solved: bool, ended: bool) -> Frame:
    """``[caption, TILE, 3]``: the task's name on the colour of its state, and the state in words."""
    from PIL import Image, ImageDraw, ImageFont

    state, colour = ("solved", _SOLVED) if solved else ("failed", _FAILED) if ended else ("", _OPEN)
    image = Image.new("RGB", (TILE, _BAR), colour)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=14)
    draw.text((6, _BAR // 2), name, fill="white", font=font, anchor="lm")
    draw.text((TILE - 6, _BAR // 2), state, fill="white", font=font, anchor="rm")
    return np.asarray(image)
