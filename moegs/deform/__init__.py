"""Motion priors: raw parameters and a time in, Gaussians out."""

from moegs.deform._init import base_params
from moegs.deform._planes import check_planes, sample_planes
from moegs.deform.embedding import Embedding
from moegs.deform.fused import Fused
from moegs.deform.hexplane import HexPlane
from moegs.deform.interpolation import Interpolation
from moegs.deform.polynomial import Polynomial
from moegs.deform.prior import Prior, Schedule, from_config, get, names, register, to_config
from moegs.deform.reformulation import Reformulation

__all__ = [
    "Embedding",
    "Fused",
    "HexPlane",
    "Interpolation",
    "Polynomial",
    "Prior",
    "Reformulation",
    "Schedule",
    "base_params",
    "check_planes",
    "from_config",
    "get",
    "names",
    "register",
    "sample_planes",
    "to_config",
]
