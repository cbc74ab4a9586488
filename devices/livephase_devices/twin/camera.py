"""The simulated camera: exposes the simulated specimen with shot noise, read noise and uneven illumination."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from pymmcore_plus.experimental.unicore import SimpleCameraDevice

from livephase_devices.optics import OpticalSetup
from livephase_devices.python_device import add_property
from livephase_devices.sensor import SensorModel, uneven_illumination
from livephase_devices.twin import world
from livephase_devices.twin.field import FieldKey, FieldSource
from livephase_devices.twin.lamp import Lamp, dust_transmission, moved_dish

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import DTypeLike, NDArray

STANDARD_EXPOSURE_MS = 20.0
STANDARD_LEVEL = 0.6
"""Mean level of an empty field at the standard exposure, as a fraction of the range."""
SPECIMEN_STEP_S = 15.0
"""The specimen is shown in steps of this much biological time."""
_DEFOCUS_STEP_UM = 0.01
_BIT_DEPTHS = {"8bit": 8, "12bit": 12}


class TwinCamera(SimpleCameraDevice):
    """Camera over a culture of dividing cells.

    The property names of the sensor size are those of Micro-Manager's DemoCamera. With ``Speedup`` 0 the specimen
    stands still, and only ``SpecimenTime-s-Set`` changes its time: then frames are a function of the seed, the
    settings and the number of frames taken since loading.

    For the illumination there are ``LampLevel`` (0: off, or shutter closed), ``LampFlicker`` (relative sd),
    ``LampDrift-per-frame``, ``Offset-counts`` (the sensor's black level), ``Dust`` (grains on its window), ``Specimen``
    (``out``: an empty field) and ``DishMoves`` (1: every exposure shows another place of the dish).
    """

    def __init__(self) -> None:
        super().__init__()
        self._shape = [490, 647]
        self._seed = 1
        self._start_h = 30.0
        self._setup = OpticalSetup(binning=world.BINNING)
        self._kappa_per_rad = 0.01
        self._unevenness = 0.15
        self._lamp = Lamp()
        self._lamp_since = 0
        self._dust = 0
        self._offset_counts = 0.0
        self._specimen = "in"
        self._dish_moves = 0
        self._bit_depth = 8
        self._exposure_ms = STANDARD_EXPOSURE_MS
        self._speedup = 0.0
        self._epoch = 0
        self._anchor = (0.0, 0.0)  # (monotonic s, specimen s) from which the specimen's clock runs
        self._shown = (0.0, 0.0)  # (specimen s, defocus um) of the last frame
        self._frames = 0
        self._bench: world.Bench | None = None
        self._source: FieldSource | None = None
        self._illumination: NDArray[np.float32] = np.ones((1, 1), np.float32)
        self._add_fixed_properties()
        self._add_properties()
        self._add_lamp_properties()

    def _add_fixed_properties(self) -> None:
        def before() -> bool:
            return self._bench is None

        def optics(**changes: float) -> None:
            self._setup = replace(self._setup, **changes)

        def size(axis: int, pixels: int) -> None:
            self._shape[axis] = pixels

        def seed(value: int) -> None:
            self._seed = value

        def start(hours: float) -> None:
            self._start_h = hours

        pixels = (16, 4096)
        for name, axis in (("OnCameraCCDXSize", 1), ("OnCameraCCDYSize", 0)):
            add_property(
                self,
                name,
                int,
                lambda axis=axis: self._shape[axis],
                lambda value, axis=axis: size(axis, value),
                limits=pixels,
                only_before=before,
            )
        add_property(self, "Seed", int, lambda: self._seed, seed, limits=(0, 2**31 - 1), only_before=before)
        add_property(self, "StartTime-h", float, lambda: self._start_h, start, limits=(0, 1000), only_before=before)
        add_property(
            self,
            "Wavelength-um",
            float,
            lambda: self._setup.wavelength_um,
            lambda value: optics(wavelength_um=value),
            limits=(0.2, 2.0),
            only_before=before,
        )
        add_property(
            self,
            "ObjectiveNA",
            float,
            lambda: self._setup.objective_na,
            lambda value: optics(objective_na=value),
            limits=(0.02, 0.95),
            only_before=before,
        )
        add_property(
            self,
            "HRPixel-um",
            float,
            lambda: self._setup.hr_pixel_um,
            lambda value: optics(hr_pixel_um=value),
            limits=(0.02, 10.0),
            only_before=before,
        )

    def _add_properties(self) -> None:
        def coherence(value: float) -> None:
            self._setup = replace(self._setup, coherence=value)

        def kappa(value: float) -> None:
            self._kappa_per_rad = value

        def unevenness(value: float) -> None:
            self._unevenness = value
            self._illuminate()

        def pixel_type(value: str) -> None:
            self._bit_depth = _BIT_DEPTHS[value]

        def speedup(value: float) -> None:
            self._anchor = time.monotonic(), self._clock_s()
            self._speedup = value

        def set_time(value: float) -> None:
            self._anchor = time.monotonic(), value
            self._epoch += 1

        add_property(self, "Coherence", float, lambda: self._setup.coherence, coherence, limits=(0, 1))
        add_property(self, "AbsorptionPerRad", float, lambda: self._kappa_per_rad, kappa, limits=(0, 0.5))
        add_property(self, "Unevenness", float, lambda: self._unevenness, unevenness, limits=(0, 0.9))
        add_property(self, "PixelType", str, lambda: f"{self._bit_depth}bit", pixel_type, allowed=tuple(_BIT_DEPTHS))
        add_property(self, "BitDepth", int, lambda: self._bit_depth)
        add_property(self, "Speedup", float, lambda: self._speedup, speedup, limits=(0, 1e6))
        add_property(self, "SpecimenTime-s", float, lambda: self._shown[0])
        add_property(self, "TrueDefocus-um", float, lambda: self._shown[1])
        add_property(self, "SpecimenTime-s-Set", float, self._clock_s, set_time, limits=(0, 3.6e6))

    def _add_lamp_properties(self) -> None:
        def lamp(**changes: float) -> None:
            self._lamp = replace(self._lamp, **changes)

        def drift(value: float) -> None:
            lamp(drift_per_frame=value)
            self._lamp_since = self._frames

        def offset(value: float) -> None:
            self._offset_counts = value

        def dust(value: int) -> None:
            self._dust = value
            self._illuminate()

        def specimen(value: str) -> None:
            self._specimen = value

        def dish_moves(value: int) -> None:
            self._dish_moves = value

        add_property(
            self, "LampLevel", float, lambda: self._lamp.level, lambda value: lamp(level=value), limits=(0, 1000)
        )
        add_property(
            self,
            "LampFlicker",
            float,
            lambda: self._lamp.flicker_sd,
            lambda value: lamp(flicker_sd=value),
            limits=(0, 1),
        )
        add_property(self, "LampDrift-per-frame", float, lambda: self._lamp.drift_per_frame, drift, limits=(-1, 1))
        add_property(self, "Offset-counts", float, lambda: self._offset_counts, offset, limits=(0, 60_000))
        add_property(self, "Dust", int, lambda: self._dust, dust, limits=(0, 1000))
        add_property(self, "Specimen", str, lambda: self._specimen, specimen, allowed=("in", "out"))
        add_property(self, "DishMoves", int, lambda: self._dish_moves, dish_moves, limits=(0, 1))

    # -- life -------------------------------------------------------------------------------------------------

    def initialize(self) -> None:
        """Seed the culture and start its clock."""
        height, width = self._shape
        specimen = world.make_specimen(self._seed, (height, width), self._setup.hr_pixel_um, self._setup.wavelength_um)
        self._bench = world.join(self.core)
        self._anchor = time.monotonic(), self._start_h * 3600.0
        self._shown = self._anchor[1], 0.0
        self._illuminate()
        self._source = FieldSource(specimen)
        self._source.warm_up(self._key(self._bench))

    def shutdown(self) -> None:
        """End the background computation."""
        if self._source is not None:
            self._source.close()
            self._source = None
        if self._bench is not None:
            self._bench = None
            world.leave(self.core)

    # -- Camera -----------------------------------------------------------------------------------------------

    def sensor_shape(self) -> tuple[int, int]:
        """(Y, X) of the sensor in pixels."""
        return self._shape[0], self._shape[1]

    def dtype(self) -> DTypeLike:
        """Unsigned 8 or 16 bits."""
        return np.uint8 if self._bit_depth <= 8 else np.uint16

    def get_exposure(self) -> float:
        """Exposure time in ms."""
        return self._exposure_ms

    def set_exposure(self, exposure: float) -> None:
        """Set the exposure time in ms; the light adds up in proportion."""
        value_ms = float(exposure)
        if not 0.01 <= value_ms <= 60_000.0:
            raise ValueError(f"{value_ms:g} ms is outside 0.01 to 60000 ms")
        self._exposure_ms = value_ms

    def snap(self, buffer: NDArray[np.uint8] | NDArray[np.uint16]) -> Mapping[str, object]:
        """Expose once into ``buffer``: the field of this moment, with noise of its own."""
        if self._source is None or self._bench is None:
            raise RuntimeError("the camera is not initialised")
        field = self._source.get(self._key(self._bench))
        began_s = time.monotonic()
        level = STANDARD_LEVEL * self._exposure_ms / STANDARD_EXPOSURE_MS
        level *= self._lamp.at(self._frames - self._lamp_since, self._seed)
        rng = np.random.default_rng([self._seed, 0xCA, self._frames])
        sensor = SensorModel(bit_depth=self._bit_depth, offset_counts=self._offset_counts)
        light = np.ones_like(field.light) if self._specimen == "out" else field.light
        if self._dish_moves:
            light = moved_dish(light, self._frames, self._seed)
        buffer[:] = sensor.expose(light * self._illumination * np.float32(level), rng)
        self._frames += 1
        self._shown = field.key.time_s, field.key.defocus_um
        time.sleep(max(0.0, self._exposure_ms / 1000.0 - (time.monotonic() - began_s)))
        return {"SpecimenTime-s": field.key.time_s, "TrueDefocus-um": field.key.defocus_um}

    # -- inside -----------------------------------------------------------------------------------------------

    def _illuminate(self) -> None:
        """The light on the empty sensor, relative to its mean: uneven, and with the shadows of dust."""
        light = uneven_illumination(self.sensor_shape(), self._unevenness, self._seed)
        self._illumination = light * dust_transmission(self.sensor_shape(), self._dust, self._seed)

    def _clock_s(self) -> float:
        """Specimen time at this moment in s."""
        since_s, specimen_s = self._anchor
        return specimen_s + self._speedup * (time.monotonic() - since_s)

    def _key(self, bench: world.Bench) -> FieldKey:
        start_s = self._anchor[1]
        steps = np.floor((self._clock_s() - start_s) / SPECIMEN_STEP_S)
        return FieldKey(
            time_s=float(start_s + steps * SPECIMEN_STEP_S),
            epoch=self._epoch,
            defocus_um=round(round(bench.defocus_um() / _DEFOCUS_STEP_UM) * _DEFOCUS_STEP_UM, 6) + 0.0,
            setup=self._setup,
            kappa_per_rad=self._kappa_per_rad,
        )
