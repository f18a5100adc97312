from __future__ import annotations

import av
import numpy as np
import pytest
from PIL import Image

from moegs.errors import BackendError
from moegs.report import movie


def frames(n: int = 5, size: tuple[int, int] = (32, 48)) -> list[np.ndarray]:
    return [np.full((*size, 3), 40 * i, np.uint8) for i in range(n)]


def test_pngs_are_numbered_and_lossless(tmp_path):
    with movie.open_pngs(tmp_path / "new") as add:
        for frame in frames():
            add(frame)
    files = sorted((tmp_path / "new").iterdir())
    assert [f.name for f in files] == [f"{i:05d}.png" for i in range(5)]
    with Image.open(files[3]) as image:
        assert np.array_equal(np.asarray(image), frames()[3])


@pytest.mark.parametrize("size", [(32, 48), (33, 49)])
def test_a_movie_has_its_frames_and_rate(tmp_path, size):
    with movie.open_movie(tmp_path / "a.mp4", fps=12.5) as add:
        for frame in frames(size=size):
            add(frame)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert float(container.streams.video[0].average_rate) == pytest.approx(12.5)
        decoded = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    assert [f.shape for f in decoded] == [(32, 48, 3)] * 5
    assert all(abs(float(f.mean()) - 40 * i) < 4 for i, f in enumerate(decoded))


def test_a_movie_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError, match="stop"), movie.open_movie(tmp_path / "a.mp4") as add:
        add(frames()[0])
        raise RuntimeError("stop")
    assert list(tmp_path.iterdir()) == []


def test_without_an_encoder_it_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(movie.av, "codecs_available", set())
    with pytest.raises(BackendError, match="write PNGs instead"), movie.open_movie(tmp_path / "a.mp4"):
        pass
