"""One picture that shows a mixture at work."""

from __future__ import annotations

from moegs.data import Scene
from moegs.report.layers import DEPTH, EXPERTS, GATES, MIXTURE, layers
from moegs.report.pictures import Picture, contact_sheet, error_map, to_uint8
from moegs.route.mixture import Mixture
from moegs.route.render import render_mixture


def mixture_sheet(mixture: Mixture, scene: Scene, camera: int, frame: int, *, backend: str = "auto") -> Picture:
    """A contact sheet of one photograph: experts, mixture and ground truth; their errors; gates and depth.

    Errors are mean absolute differences of the channels, from black (none) to light yellow (a quarter of full scale);
    gates go from black (0) to light yellow (1); near is bright in the depth.
    """
    view = scene.view(camera, frame)
    shown = layers(
        mixture, view.camera, view.time, (MIXTURE, EXPERTS, GATES, DEPTH), bounds=scene.bounds, backend=backend
    )
    names = [*mixture.experts, "mixture"]
    render = render_mixture(mixture, view.camera, view.time, backend=backend)
    images = dict(zip(names, [*render.images, render.color], strict=True))
    truth = f"{scene.camera_names[camera]}, frame {frame}"
    return contact_sheet(
        [
            [*((name, shown[name]) for name in names), (truth, to_uint8(view.image))],
            [(f"error of {name}", to_uint8(error_map(images[name].detach().cpu(), view.image))) for name in names],
            [*((f"gate of {name}", shown[f"gates-{name}"]) for name in mixture.experts), ("depth", shown["depth"])],
        ]
    )
