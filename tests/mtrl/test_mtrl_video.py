"""A video shows every task with its name and whether it was solved."""

import sys
from pathlib import Path

import numpy as np
import pytest

from envs import make_suite
from mtrl.errors import MissingExtra
from mtrl.video import TILE, mosaic, write_mosaic


class Noise:
    """Acts at random."""

    def predict(self, observation: np.ndarray, *, deterministic: bool = True) -> tuple[np.ndarray, None]:
        generator = np.random.default_rng(0)
        return generator.uniform(-1, 1, (len(observation), 4)).astype(np.float32), None


def test_tiles_stand_in_a_full_grid_and_captions_tell_solved_from_failed() -> None:
    pictures = [np.full((TILE, TILE, 3), 10 * k, dtype=np.uint8) for k in range(10)]
    solved, ended = np.arange(10) == 0, np.arange(10) <= 1
    frame = mosaic(pictures, [f"task-{k}" for k in range(10)], solved, ended)
    caption = frame.shape[0] // 2 - TILE
    assert frame.shape == (2 * (TILE + caption), 5 * TILE, 3)  # two rows of five, no empty place
    assert (frame[0, 4 * TILE] == 40).all()
    strips = [frame[TILE : TILE + caption, k * TILE : (k + 1) * TILE] for k in range(3)]
    colours = {tuple(strip[0, 0]) for strip in strips}
    assert len(colours) == 3
    assert all((strip > 200).all(axis=2).any() for strip in strips)  # white letters


def test_a_missing_video_package_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(MissingExtra, match=r"pip install 'mtrl-toolkit\[video\]'"):
        write_mosaic(Noise(), make_suite("pointmass"), tmp_path / "v.mp4")
    assert list(tmp_path.iterdir()) == []


def test_a_video_of_metaworld_is_written_where_opengl_works(tmp_path: Path) -> None:
    from envs.rendering import find_gl

    imageio = pytest.importorskip("imageio.v2", reason="the extra 'video' is not installed")
    pytest.importorskip("imageio_ffmpeg", reason="the extra 'video' is not installed")
    if find_gl() is None:
        pytest.skip("no off-screen OpenGL: neither libegl1 with a GPU driver nor libosmesa6 is installed")
    suite = make_suite("metaworld", tasks=["reach-v3", "push-v3"])
    path = write_mosaic(Noise(), suite, tmp_path / "v.mp4", seed=1, horizon=3)
    frames = [frame for frame in imageio.get_reader(path)]  # noqa: C416 - a reader has no length that list() can use
    assert len(frames) >= 4
    assert frames[0].shape[1] == 2 * TILE
    assert not np.array_equal(frames[0][:TILE], frames[3][:TILE])
