"""The figures: numbers in, a matplotlib `Figure` out; nothing here computes a result."""

# ruff: noqa: F401  (the names that others use)

from mc3.paper.plots.classes import confusion, long_tail, per_class, sounding_rates
from mc3.paper.plots.clips import clip_cards, clusters, method, retrieval, scatter
from mc3.paper.plots.results import consensus, precision_recall, regions, training
from mc3.paper.plots.style import GREY, NO, PAGE, PALETTE, YES, line_styles, save, show
from mc3.paper.plots.sweeps import ablations, differences, overview, selection, study, study_cells, study_regions
