"""Pictures: one function a kind of result, one house style. Each takes an optional `ax` and returns the Figure."""

from stability.foundation.data_files import read_data, write_data
from stability.foundation.files import make_folder
from stability.plots.depth_profiles import depth_check
from stability.plots.flow_distances import flow
from stability.plots.folded_lines import counts, function
from stability.plots.folded_planes import slice
from stability.plots.format_losses import first_failure, forward_error
from stability.plots.layer_profiles import gradient_norms, propagation, watch
from stability.plots.lettered_panels import PAGE_WIDTH, end_labels, headline, panels, ticks
from stability.plots.panel_parts import band, numbers
from stability.plots.path_energies import paths
from stability.plots.save_figure import save
from stability.plots.spectra import distribution, spectrum, vanishing
from stability.plots.style import STYLE, colour
from stability.plots.training_curves import fits, history
from stability.plots.unit_shares import units

__all__ = [
    "PAGE_WIDTH",
    "STYLE",
    "band",
    "colour",
    "counts",
    "depth_check",
    "distribution",
    "end_labels",
    "first_failure",
    "fits",
    "flow",
    "forward_error",
    "function",
    "gradient_norms",
    "headline",
    "history",
    "make_folder",
    "numbers",
    "panels",
    "paths",
    "propagation",
    "read_data",
    "save",
    "slice",
    "spectrum",
    "ticks",
    "units",
    "vanishing",
    "watch",
    "write_data",
]
