"""Set-up of the test run: annotated shapes are checked at every call, one torch thread a worker."""

from __future__ import annotations

import os

if os.environ.get("MOEGS_SHAPE_CHECKS", "1") != "0":
    from tests import shapes

    shapes.install("moegs")  # has to stand before the first import of moegs

if "PYTEST_XDIST_WORKER" in os.environ:
    import torch

    torch.set_num_threads(1)
