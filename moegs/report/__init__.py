"""Pictures and tables of what was trained, with nothing beyond the default install."""

from moegs.report.layers import KINDS, layers
from moegs.report.movie import open_movie, open_pngs, write_png
from moegs.report.pictures import contact_sheet, depth_colors, error_map, heat, to_uint8
from moegs.report.plots import draw_comparison
from moegs.report.regions import (
    REGIONS,
    error_maps,
    frame_scores,
    motion_regions,
    ranking,
    region_scores,
    regions_sheet,
    win_map,
)
from moegs.report.results import (
    PROTOCOL,
    command_line,
    held_out,
    model_row,
    print_table,
    run_header,
    score_row,
    versions,
    write_results,
)
from moegs.report.sheet import mixture_sheet

__all__ = [
    "KINDS",
    "PROTOCOL",
    "REGIONS",
    "command_line",
    "contact_sheet",
    "depth_colors",
    "draw_comparison",
    "error_map",
    "error_maps",
    "frame_scores",
    "heat",
    "held_out",
    "layers",
    "mixture_sheet",
    "model_row",
    "motion_regions",
    "open_movie",
    "open_pngs",
    "print_table",
    "ranking",
    "region_scores",
    "regions_sheet",
    "run_header",
    "score_row",
    "to_uint8",
    "versions",
    "win_map",
    "write_png",
    "write_results",
]
