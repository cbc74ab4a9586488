"""A culture of HeLa-like cells over days: where each cell is, how old and how heavy, and who its mother was.

An agent model on a torus a little larger than the field of view, stepped on a fixed grid of biological time. Every
random number is drawn from a generator keyed by (seed, step), so the culture at a time depends on nothing but the
seed and the time. Between two steps positions are interpolated; divisions happen at steps.

Rules: a cell crawls as a persistent random walk, is pushed off by its neighbours, doubles its dry mass over a cycle of
about 20 h that slows where it is crowded, rounds up for the last hour of the cycle and divides into two daughters of
half the mass each. HeLa: cycle about 20-24 h, dry mass about 150-450 pg, crawling about 10-20 um/h.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

STEP_S = 120.0
ROUNDING_S = 3600.0
"""A cell leaves the flat shape this long before it divides."""
FURROW_S = 900.0
"""The furrow shows this long before the division; the two halves move apart."""
FLATTENING_S = 5400.0
"""Daughters need this long to spread again."""
DAUGHTER_SEPARATION_UM = 15.0
"""Distance of the centres at the division."""
_CHECKPOINT_STEPS = 60

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Cells:
    """State of all cells at one time; every array has one entry for each cell.

    Attributes
    ----------
    cell_id, mother_id : NDArray[int64]
        Unique number; -1 for a founder's mother.
    y_um, x_um : NDArray[float64]
        Centre on the torus.
    heading_rad : NDArray[float64]
        Direction of crawling and long axis of the cell.
    age_s, to_division_s : NDArray[float64]
        Time since birth, and the time left at the present pace.
    birth_mass_pg : NDArray[float64]
        Dry mass at birth.
    cycle_s : NDArray[float64]
        Length of the cycle where nothing crowds the cell.
    spread : NDArray[float64]
        Area for each pg of dry mass when flat, um2/pg.
    """

    cell_id: NDArray[np.int64]
    mother_id: NDArray[np.int64]
    y_um: Floats
    x_um: Floats
    heading_rad: Floats
    age_s: Floats
    to_division_s: Floats
    birth_mass_pg: Floats
    cycle_s: Floats
    spread: Floats

    def __len__(self) -> int:
        """Count the cells."""
        return len(self.cell_id)

    @property
    def mass_pg(self) -> Floats:
        """Dry mass: grows linearly from the birth mass to twice that over the cycle."""
        return self.birth_mass_pg * (1.0 + np.clip(1.0 - self.to_division_s / self.cycle_s, 0.0, 1.0))

    def roundness(self) -> Floats:
        """How far a cell has rounded up: 0 flat, 1 a sphere."""
        before = 1.0 - self.to_division_s / ROUNDING_S
        after = np.where(self.mother_id >= 0, 1.0 - self.age_s / FLATTENING_S, 0.0)
        r = np.clip(np.maximum(before * 2.0, after), 0.0, 1.0)
        return r * r * (3.0 - 2.0 * r)

    def furrow(self) -> Floats:
        """How far a dividing cell has split: 0 one body, 1 two that touch."""
        return np.clip(1.0 - self.to_division_s / FURROW_S, 0.0, 1.0)

    def radius_um(self) -> Floats:
        """Radius of the disc of the cell's area, flat or round."""
        round_um2 = np.pi * 8.5**2 * (self.mass_pg / 300.0) ** (2 / 3)
        r = self.roundness()
        return np.sqrt(((1 - r) * self.spread * self.mass_pg + r * round_um2) / np.pi)


def _take(cells: Cells, index: NDArray[np.intp]) -> Cells:
    return Cells(**{f.name: getattr(cells, f.name)[index] for f in fields(Cells)})


def _join(a: Cells, b: Cells) -> Cells:
    return Cells(**{f.name: np.concatenate([getattr(a, f.name), getattr(b, f.name)]) for f in fields(Cells)})


class Culture:
    """A culture on a torus of a given size.

    Parameters
    ----------
    seed : int
        Chooses the culture.
    size_um : tuple of float
        (Y, X) of the torus in um.
    density_per_mm2 : float
        Founder cells at time 0.
    spread_um2_per_pg : float
        Median flat area for each pg: 1.2 gives compact thick cells, 3 thin spread ones.
    """

    def __init__(
        self,
        seed: int,
        size_um: tuple[float, float],
        density_per_mm2: float = 90.0,
        spread_um2_per_pg: float = 2.2,
    ) -> None:
        self.seed = seed
        self.size_um = size_um
        self._spread = spread_um2_per_pg
        rng = np.random.default_rng([seed, 0])
        count = max(1, rng.poisson(density_per_mm2 * size_um[0] * size_um[1] * 1e-6))
        cycle = rng.normal(20.0, 2.0, count).clip(15, 26) * 3600
        ids = np.arange(count)
        founders = Cells(
            cell_id=ids,
            mother_id=np.full(count, -1),
            y_um=rng.uniform(0, size_um[0], count),
            x_um=rng.uniform(0, size_um[1], count),
            heading_rad=rng.uniform(0, 2 * np.pi, count),
            age_s=np.zeros(count),
            # Ages of an exponentially growing population: twice as many newborn as dividing cells.
            to_division_s=cycle * np.log2(1.0 + rng.uniform(0, 1, count)).clip(0.002, 1),
            birth_mass_pg=rng.lognormal(np.log(170.0), 0.22, count),
            cycle_s=cycle,
            spread=spread_um2_per_pg * rng.lognormal(0, 0.25, count),
        )
        founders = replace(founders, age_s=founders.cycle_s - founders.to_division_s)
        self._checkpoints: dict[int, tuple[Cells, int]] = {0: (founders, count)}
        self._latest: tuple[int, Cells, int] = (0, founders, count)

    def at(self, time_s: float) -> Cells:
        """State at a biological time.

        Parameters
        ----------
        time_s : float
            Seconds since the founders were seeded, not negative.

        Returns
        -------
        Cells
            Positions interpolated between the steps before and after.
        """
        step, fraction = divmod(max(time_s, 0.0) / STEP_S, 1.0)
        before, next_id = self._at_step(int(step))
        if fraction == 0:
            return before
        after, _ = self._advance(before, next_id, int(step))
        same = len(np.intersect1d(before.cell_id, after.cell_id, assume_unique=True))
        # Survivors keep their order at the head of the next state; dividing cells stay where they are.
        kept = np.isin(before.cell_id, after.cell_id)
        dy = np.zeros(len(before))
        dx = np.zeros(len(before))
        dh = np.zeros(len(before))
        dy[kept] = self._wrapped(after.y_um[:same] - before.y_um[kept], 0)
        dx[kept] = self._wrapped(after.x_um[:same] - before.x_um[kept], 1)
        dh[kept] = after.heading_rad[:same] - before.heading_rad[kept]
        left = np.zeros(len(before))
        left[kept] = after.to_division_s[:same]
        return replace(
            before,
            y_um=(before.y_um + fraction * dy) % self.size_um[0],
            x_um=(before.x_um + fraction * dx) % self.size_um[1],
            heading_rad=before.heading_rad + fraction * dh,
            age_s=before.age_s + fraction * STEP_S,
            to_division_s=before.to_division_s + fraction * (left - before.to_division_s),
        )

    def _wrapped(self, difference: Floats, axis: int) -> Floats:
        size = self.size_um[axis]
        return (difference + size / 2) % size - size / 2

    def _at_step(self, step: int) -> tuple[Cells, int]:
        at, cells, next_id = self._latest
        if at > step:
            at = max(known for known in self._checkpoints if known <= step)
            cells, next_id = self._checkpoints[at]
        while at < step:
            cells, next_id = self._advance(cells, next_id, at)
            at += 1
            if at % _CHECKPOINT_STEPS == 0:
                self._checkpoints[at] = (cells, next_id)
        self._latest = (at, cells, next_id)
        return cells, next_id

    def _advance(self, cells: Cells, next_id: int, step: int) -> tuple[Cells, int]:
        rng = np.random.default_rng([self.seed, 1, step])
        hours = STEP_S / 3600
        radius = cells.radius_um()
        round_up = cells.roundness()
        push_y, push_x, crowding = self._contacts(cells, radius)
        speed = 14.0 * (1 - round_up) * np.exp(-crowding)
        heading = cells.heading_rad + rng.normal(0, 0.9, len(cells)) * np.sqrt(hours) * (1 - round_up)
        y = cells.y_um + speed * np.sin(heading) * hours + push_y
        x = cells.x_um + speed * np.cos(heading) * hours + push_x
        pace = np.where(cells.to_division_s < ROUNDING_S, 1.0, np.exp(-1.2 * crowding))
        moved = replace(
            cells,
            y_um=y % self.size_um[0],
            x_um=x % self.size_um[1],
            heading_rad=heading,
            age_s=cells.age_s + STEP_S,
            to_division_s=cells.to_division_s - STEP_S * pace,
        )
        dividing = moved.to_division_s <= 0
        if not dividing.any():
            return moved, next_id
        mothers = _take(moved, np.flatnonzero(dividing))
        daughters = [self._daughter(mothers, rng, side, next_id) for side in (-1, 1)]
        rest = _take(moved, np.flatnonzero(~dividing))
        return _join(_join(rest, daughters[0]), daughters[1]), next_id + 2 * len(mothers)

    def _daughter(self, mothers: Cells, rng: np.random.Generator, side: int, next_id: int) -> Cells:
        count = len(mothers)
        offset = side * DAUGHTER_SEPARATION_UM / 2
        cycle = rng.normal(20.0, 2.0, count).clip(15, 26) * 3600
        return Cells(
            cell_id=next_id + 2 * np.arange(count) + (side > 0),
            mother_id=mothers.cell_id,
            y_um=(mothers.y_um + offset * np.sin(mothers.heading_rad)) % self.size_um[0],
            x_um=(mothers.x_um + offset * np.cos(mothers.heading_rad)) % self.size_um[1],
            heading_rad=mothers.heading_rad + (0 if side > 0 else np.pi),
            age_s=np.zeros(count),
            to_division_s=cycle,
            birth_mass_pg=mothers.birth_mass_pg,
            cycle_s=cycle,
            spread=self._spread * rng.lognormal(0, 0.25, count),
        )

    def _contacts(self, cells: Cells, radius: Floats) -> tuple[Floats, Floats, Floats]:
        """Push (um in this step) along y and x, and how crowded each cell is (0 = free)."""
        push_y, push_x, crowding = (np.zeros(len(cells)) for _ in range(3))
        points = np.stack([cells.y_um, cells.x_um], axis=1) % self.size_um
        tree = cKDTree(points, boxsize=np.array(self.size_um))
        pairs = tree.query_pairs(2 * float(radius.max()), output_type="ndarray")
        if len(pairs) == 0:
            return push_y, push_x, crowding
        a, b = pairs[:, 0], pairs[:, 1]
        dy = self._wrapped(points[a, 0] - points[b, 0], 0)
        dx = self._wrapped(points[a, 1] - points[b, 1], 1)
        distance = np.hypot(dy, dx) + 1e-6
        overlap = np.clip((radius[a] + radius[b]) * 0.9 - distance, 0, None)
        push = np.minimum(0.15 * overlap, 1.0)
        for axis, d in ((push_y, dy), (push_x, dx)):
            np.add.at(axis, a, push * d / distance)
            np.add.at(axis, b, -push * d / distance)
        np.add.at(crowding, a, overlap / (radius[a] + radius[b]))
        np.add.at(crowding, b, overlap / (radius[a] + radius[b]))
        return push_y, push_x, crowding
