"""Pictures and tables of what was trained, with nothing beyond the default install."""

from moegs.report.layers import KINDS, layers
from moegs.report.movie import open_movie, open_pngs, write_png
from moegs.report.pictures import contact_sheet, depth_colors, error_map, heat, to_uint8
from moegs.report.results import PROTOCOL, command_line, model_row, print_table, score_row, versions, write_results
from moegs.report.sheet import mixture_sheet

__all__ = [
    "KINDS",
    "PROTOCOL",
    "command_line",
    "contact_sheet",
    "depth_colors",
    "error_map",
    "heat",
    "layers",
    "mixture_sheet",
    "model_row",
    "open_movie",
    "open_pngs",
    "print_table",
    "score_row",
    "to_uint8",
    "versions",
    "write_png",
    "write_results",
]
