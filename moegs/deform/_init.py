"""Where every prior starts: round, faint Gaussians on the points of a cloud."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from moegs.errors import ConfigError, DataError
from moegs.gaussians.cloud import PointCloud
from moegs.gaussians.container import Gaussians
from moegs.gaussians.harmonics import from_rgb
from moegs.gaussians.params import PREFIX, Params

NEIGHBOURS = 3
LEAST = 0.005  # opacity, and transparency, that a Gaussian starts with: logits must stay where they can move
FLOOR, CEILING = 0.05, 10.0  # least and greatest scale, in medians: duplicates would vanish, strays would fog the scene


def base_params(cloud: PointCloud, sh_degree: int, opacity: float = 0.1, population: str = "") -> Params:
    """The tensors that all priors share, one Gaussian a point, float32.

    ``means``, ``quats`` (identity, wxyz), ``scales`` (log of the mean distance to three neighbours), ``opacities``
    (logit), ``sh_dc`` [n,1,3] (the point's colour from everywhere), ``sh_rest`` [n,k,3] (zero), each under
    ``gaussian.`` or ``gaussian.<population>.``. A cloud with looks gives all but the means instead.

    Raises:
        ConfigError: the degree is not 0 to 3, or the opacity is not between 0 and 1.
        DataError: the cloud is empty or holds values that are not finite, or spans that are not above 0.
    """
    _check(cloud, sh_degree, opacity)
    n, points = len(cloud), cloud.points
    fields = {
        "means": points.clone(),
        "quats": points.new_tensor([1.0, 0.0, 0.0, 0.0]).repeat(n, 1),
        "scales": points.new_zeros(n, 3) if cloud.looks is not None else _spacing(cloud).log()[:, None].repeat(1, 3),
        "opacities": points.new_full((n,), math.log(opacity / (1 - opacity))),
        "sh_dc": from_rgb(cloud.colors)[:, None, :].clone(),
        "sh_rest": points.new_zeros(n, (sh_degree + 1) ** 2 - 1, 3),
    }
    if cloud.looks is not None:
        fields |= _looks(cloud.looks, fields["sh_rest"])
    return {f"{prefix(population)}{name}": value for name, value in fields.items()}


def _looks(known: Gaussians, rest: Float[Tensor, "n k 3"]) -> dict[str, Tensor]:
    assert known.quats is not None and known.scales is not None  # clouds take no others
    terms = min(rest.shape[1], known.sh.shape[1] - 1)
    return {
        "quats": known.quats.clone(),
        "scales": known.scales.clamp_min(1e-12).log(),
        "opacities": torch.logit(known.opacities.clamp(LEAST, 1 - LEAST)),
        "sh_dc": known.sh[:, :1].clone(),
        "sh_rest": torch.cat([known.sh[:, 1 : 1 + terms], rest[:, terms:]], dim=1),
    }


def prefix(population: str = "") -> str:
    """What the tensor names of a population begin with."""
    return f"{PREFIX}{population}." if population else PREFIX


def _spacing(cloud: PointCloud) -> Float[Tensor, "n"]:
    """Neighbour distances among the points that are there together: brief ones of the same time, and all the others."""
    if cloud.spans is None or cloud.times is None:
        return neighbour_distance(cloud.points)
    moment = torch.where((cloud.spans < 1) & ~cloud.times.isnan(), cloud.times, torch.inf)
    spacing = torch.empty_like(moment)
    for time in moment.unique():
        together = moment == time
        spacing[together] = neighbour_distance(cloud.points[together])
    return spacing


def neighbour_distance(points: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
    """Mean distance from each point to its three nearest neighbours.

    Distances are held between 0.05 and 10 times their median, so that duplicates and strays start at a usable size. A
    cloud without any two distinct points gets 1.
    """
    k = min(NEIGHBOURS, len(points) - 1)
    if k == 0:
        return torch.ones_like(points[:, 0])
    from scipy.spatial import cKDTree  # takes as long to import as all of moegs that renders

    array = points.detach().cpu().double().numpy()
    distances = cKDTree(array).query(array, k=k + 1)[0][:, 1:].mean(axis=1)
    positive = distances[distances > 0]
    median = float(np.median(positive)) if positive.size else 1.0
    return torch.from_numpy(distances.clip(FLOOR * median, CEILING * median)).to(points)


def lives(
    cloud: PointCloud, times: Float[Tensor, "n"], spans: Float[Tensor, "n"], exact: float = 1.0
) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
    """When each point is and for how long: as the cloud knows it, else as given.

    Points start gently, to be there for longer than they were seen. Those with looks are Gaussians whose lives are known:
    ``exact`` is what turns their span into one that does not last longer, by the standard deviation.
    """
    if cloud.times is not None:
        times = torch.where(cloud.times.isnan(), times, cloud.times)
    if cloud.spans is not None:
        spans = torch.where(cloud.spans < 1, cloud.spans * (1.0 if cloud.looks is None else exact), spans)
    return times, spans


def _check(cloud: PointCloud, sh_degree: int, opacity: float) -> None:
    if sh_degree not in range(4):
        raise ConfigError(f"sh_degree: expected 0, 1, 2 or 3, got {sh_degree}.")
    if not 0 < opacity < 1:
        raise ConfigError(f"opacity: expected a value between 0 and 1, got {opacity}.")
    if len(cloud) == 0:
        raise DataError("point cloud: it is empty; a prior needs at least one point to start from.")
    for name in ("points", "colors", "times", "spans", "velocities"):
        value = getattr(cloud, name)
        if value is not None and name == "times":
            value = value[~value.isnan()]  # not known
        if value is not None and not torch.isfinite(value).all():
            raise DataError(f"point cloud: {name} holds values that are not finite; drop those points first.")
    if cloud.spans is not None and not bool((cloud.spans > 0).all()):
        raise DataError("point cloud: spans holds values of 0 or less; expected fractions of the clip above 0.")
    if cloud.looks is not None:
        for name in ("opacities", "sh", "quats", "scales"):
            if not torch.isfinite(getattr(cloud.looks, name)).all():
                raise DataError(f"point cloud: looks.{name} holds values that are not finite; drop those points first.")
