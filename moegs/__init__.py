"""Mixture-of-experts dynamic Gaussian splatting in small composable parts."""

import os

__version__ = "0.1.0"

# torch's threads spin while they wait for each other, which on a shared machine takes the core from the one they wait for:
# training steps cost seven times the processor time there. Read by OpenMP when torch is loaded; a setting of yours stays.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
