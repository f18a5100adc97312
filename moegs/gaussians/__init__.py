"""What a set of Gaussians is: container, raw parameters, quaternions, spherical harmonics, point clouds."""

from moegs.gaussians.cloud import PointCloud
from moegs.gaussians.container import Gaussians, concatenate, covariances
from moegs.gaussians.params import Params, count, join, populations, take
from moegs.gaussians.ply import read_ply, write_ply

__all__ = [
    "Gaussians",
    "Params",
    "PointCloud",
    "concatenate",
    "count",
    "covariances",
    "join",
    "populations",
    "read_ply",
    "take",
    "write_ply",
]
