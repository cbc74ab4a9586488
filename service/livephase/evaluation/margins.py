"""Where the judged part of a field begins: distances from its border, from its stop, and around simulated fields."""

from __future__ import annotations

TIE_MARGIN_UM = 15.0
"""Cells: TIE knows no phase gradient at a border, and a field stop's fringes reach into the frame."""
LENS_MARGIN_UM = 4.65
"""A microlens this near to the stop is not whole; its flat surround needs no more."""
WIDE_FIELD_MARGIN_PX = 56
"""Propagation is periodic: this is cut off around a simulated field of 0.65 um pixels, four times the reach of the
light at z = 13 um."""
OBJECTIVE_FIELD_MARGIN_PX = 64
"""The same for 0.17 um pixels at 40x / 0.6 NA and z = 9 um."""
