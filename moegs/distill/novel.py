"""A clip with more cameras than were there: the mixture's frames stand in for the photographs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from moegs.data import Scene
from moegs.data.frames import Frames
from moegs.distill.teacher import Teacher, cache_teacher
from moegs.render.paths import between
from moegs.route.mixture import Mixture


def with_novel_views(
    scene: Scene, mixture: Mixture, count: int, folder: str | Path, *, seed: int = 0, progress: bool = True
) -> Scene:
    """The clip with ``count`` training cameras more, which stand between its own and saw what the mixture renders there.

    Their indices come after those of the clip's cameras. A clip with a single training camera stays as it is.

    Args:
        scene: the clip.
        mixture: renders all frames of the new cameras.
        count: new cameras, see :func:`moegs.render.paths.between`.
        folder: where the frames lie, see :func:`moegs.distill.cache_teacher`.
        seed: places the cameras.
        progress: show a bar.

    Raises:
        DataError: the disk is too small.
    """
    if count < 1 or len(scene.train) < 2:
        return scene
    new = between([scene.cameras[i] for i in scene.train], count, seed)
    indices = tuple(range(len(scene.cameras), len(scene.cameras) + count))
    wider = replace(
        scene,
        cameras=(*scene.cameras, *new),
        camera_names=(*scene.camera_names, *(f"between{i:02d}" for i in range(count))),
        train=(*scene.train, *indices),
    )
    teacher = cache_teacher(mixture, wider, folder, cameras=indices, progress=progress)
    return replace(wider, frames=_Wider(scene.frames, teacher))


@dataclass(frozen=True)
class _Wider:
    """Photographs, and the teacher's frames at the cameras that it has."""

    photographs: Frames
    teacher: Teacher

    def image(self, camera: int, frame: int) -> Float[Tensor, "h w 3"]:
        source = self.teacher.frame if camera in self.teacher.frames else self.photographs.image
        return source(camera, frame)
