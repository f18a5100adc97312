"""How good a render is (PSNR, SSIM in its named conventions, D-SSIM, LPIPS) and what it costs."""

from moegs.metrics.cost import Speed, bytes_on_disk, peak_memory, take_turns, time_frames
from moegs.metrics.depth import DepthScores, depth_scores, summarise_depth
from moegs.metrics.frames import NOT_COMPUTED, FrameScores, score, summarise
from moegs.metrics.lpips import load_lpips
from moegs.metrics.psnr import psnr
from moegs.metrics.ssim import dssim, ssim_inria, ssim_loss, ssim_skimage

__all__ = [
    "NOT_COMPUTED",
    "DepthScores",
    "FrameScores",
    "Speed",
    "bytes_on_disk",
    "depth_scores",
    "dssim",
    "load_lpips",
    "peak_memory",
    "psnr",
    "score",
    "ssim_inria",
    "ssim_loss",
    "ssim_skimage",
    "summarise",
    "summarise_depth",
    "take_turns",
    "time_frames",
]
