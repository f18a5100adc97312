"""Mixture-of-experts dynamic Gaussian splatting in small composable parts."""

__version__ = "0.1.0"
