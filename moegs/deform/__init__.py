"""Motion priors: raw parameters and a time in, Gaussians out."""

from moegs.deform.prior import Prior, Schedule, from_config, get, names, register, to_config

__all__ = ["Prior", "Schedule", "from_config", "get", "names", "register", "to_config"]
