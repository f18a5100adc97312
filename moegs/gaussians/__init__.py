"""What a set of Gaussians is: container, raw parameters, quaternions, spherical harmonics, point clouds."""

from moegs.gaussians.cloud import PointCloud
from moegs.gaussians.container import Gaussians, concatenate, covariances
from moegs.gaussians.params import Params, count, join, populations, take

__all__ = ["Gaussians", "Params", "PointCloud", "concatenate", "count", "covariances", "join", "populations", "take"]
