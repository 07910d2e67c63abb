"""Signals forward and gradients backward, layer by layer: how large they are, how they grow, and how they train."""

from stability.signals.alter_layers import leave_out, swap_neighbours
from stability.signals.death_record import DeathRecord
from stability.signals.fit_growth import fit_growth
from stability.signals.gradient_norms import GradientNorms
from stability.signals.growth_laws import Law
from stability.signals.growth_verdict import GrowthFit
from stability.signals.hessian_values import Hessian
from stability.signals.layer_effects import LayerEffects
from stability.signals.loss_hessian import hessian
from stability.signals.measure_gradients import gradient_norms
from stability.signals.measure_propagation import propagation
from stability.signals.measure_units import units
from stability.signals.propagation import Propagation
from stability.signals.unit_activity import Units
from stability.signals.watch import watch
from stability.signals.watch_record import WatchRecord
from stability.signals.watched_deaths import watch_deaths
from stability.signals.watched_nonfinite import NotFinite

__all__ = [
    "DeathRecord",
    "GradientNorms",
    "GrowthFit",
    "Hessian",
    "Law",
    "LayerEffects",
    "NotFinite",
    "Propagation",
    "Units",
    "WatchRecord",
    "fit_growth",
    "gradient_norms",
    "hessian",
    "leave_out",
    "propagation",
    "swap_neighbours",
    "units",
    "watch",
    "watch_deaths",
]
