"""The simulated microscope shows what the optics makes of the true phase, with a camera's noise, and says when."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from pymmcore_plus.experimental.unicore import UniMMCore

from livephase_devices.config import MicroscopeConfig
from livephase_devices.microscope import CameraFrame, Microscope
from livephase_devices.optics import OpticalSetup, bin_pixels, intensity
from livephase_devices.sensor import uneven_illumination
from livephase_devices.twin import field, truth_phase_rad
from livephase_devices.twin.camera import STANDARD_LEVEL
from livephase_devices.twin.lens import TwinLens
from livephase_devices.twin.specimen import Specimen

if TYPE_CHECKING:
    from devices.conftest import MakeConfig

SHAPE = (80, 96)
DEADLINE_S = 60.0


def expected_counts(
    frame: CameraFrame, setup: OpticalSetup | None = None, *, kappa: float = 0.01, unevenness: float = 0.15
) -> np.ndarray:
    """Noise-free counts of a frame of the small twin, from the truth at the time that the frame states."""
    phase_rad = truth_phase_rad(frame.properties["Camera.SpecimenTime-s"], sensor_shape=SHAPE)
    defocus_um = frame.properties["Camera.TrueDefocus-um"]
    light = bin_pixels(intensity(phase_rad, setup or OpticalSetup(), defocus_um, kappa), 4)
    light = light * uneven_illumination(SHAPE, unevenness, 1)
    top = 2**frame.bit_depth - 1
    return np.clip(light * STANDARD_LEVEL * frame.exposure_ms / 20.0 * top, 0, top)


def relative_noise(frame: CameraFrame, *, kappa: float = 0.01, unevenness: float = 0.15) -> float:
    expected = expected_counts(frame, kappa=kappa, unevenness=unevenness)
    return float(np.std(frame.pixels - expected) / expected.mean())


def test_frames_agree_with_the_truth(twin: Microscope) -> None:
    twin.set_exposure_ms(20.0)
    for defocus_um in (0.0, 6.0, -6.0, 12.0):
        twin.set_defocus_um(defocus_um)
        frame = twin.snap()
        assert frame.defocus_um == frame.properties["Camera.TrueDefocus-um"] == defocus_um
        # About 1 % of noise at the standard exposure, and nothing but noise beside the forward model.
        assert 0.007 < relative_noise(frame) < 0.012
        assert frame.pixels.mean() == pytest.approx(expected_counts(frame).mean(), rel=2e-3)
    wrong = replace(frame, properties={**frame.properties, "Camera.TrueDefocus-um": -12.0})
    assert relative_noise(wrong) > 2 * relative_noise(frame)


def test_noise_is_drawn_for_every_frame_and_repeats_with_the_seed(make_config: MakeConfig, twin_cfg: str) -> None:
    runs: list[list[np.ndarray]] = []
    for _ in range(2):
        with Microscope(make_config(twin_cfg, lens="Lens")) as microscope:
            runs.append([microscope.snap().pixels for _ in range(3)])
    for first, second in zip(*runs, strict=True):
        np.testing.assert_array_equal(first, second)
    assert not np.array_equal(runs[0][0], runs[0][1])
    other = twin_cfg.replace("Property,Core", "#py Property,Camera,Seed,2\nProperty,Core")
    with Microscope(make_config(other, lens="Lens")) as microscope:
        assert not np.array_equal(runs[0][0], microscope.snap().pixels)


def test_the_specimen_stands_still_until_its_time_is_set(twin: Microscope) -> None:
    times = {twin.snap().properties["Camera.SpecimenTime-s"] for _ in range(3)}
    assert times == {20 * 3600.0}
    twin.set_exposure_ms(20.0)
    twin.set_defocus_um(6.0)
    for time_s in (80_000.0, 80_007.5, 70_000.0):
        twin.set_property("Camera", "SpecimenTime-s-Set", time_s)
        frame = twin.snap()
        assert frame.properties["Camera.SpecimenTime-s"] == time_s
        assert twin.get_property("Camera", "SpecimenTime-s") == time_s
        assert relative_noise(frame) < 0.012


def test_while_time_runs_every_frame_shows_the_time_and_defocus_that_it_states(twin: Microscope) -> None:
    twin.set_exposure_ms(20.0)
    twin.set_property("Camera", "Speedup", 500.0)
    twin.set_defocus_um(6.0)
    twin.start_sequence()
    shown: dict[float, CameraFrame] = {}
    end_s = time.monotonic() + DEADLINE_S
    while len(shown) < 4:
        assert time.monotonic() < end_s
        if len(shown) == 2:
            twin.set_defocus_um(-4.0)
        frame = twin.next_frame(20)
        assert frame is not None
        assert frame.properties["Camera.TrueDefocus-um"] == frame.defocus_um == (6.0 if len(shown) < 2 else -4.0)
        shown[frame.properties["Camera.SpecimenTime-s"]] = frame
    twin.stop_sequence()
    assert list(shown) == sorted(shown)
    for frame in shown.values():
        assert relative_noise(frame) < 0.012


def test_which_field_is_shown(monkeypatch: pytest.MonkeyPatch, no_leaks: None) -> None:
    """A field of the same view may be a little old; one of another view, or a very old one, is never shown."""
    source = field.FieldSource(Specimen(1, (64, 64)))
    first = field.FieldKey(72_000.0, 0, 6.0, OpticalSetup(), 0.01)
    later = replace(first, time_s=72_015.0)
    try:
        monkeypatch.setattr(field, "_patience_s", lambda _field: np.inf)
        assert source.get(first).key == first
        assert source.get(later).key == first  # shown at once, while the worker computes the later one
        end_s = time.monotonic() + DEADLINE_S
        while source.get(later).key != later:
            assert time.monotonic() < end_s
        for change in ({"defocus_um": 7.0}, {"kappa_per_rad": 0.0}, {"setup": OpticalSetup(coherence=0.0)}):
            other = replace(later, **change)
            assert source.get(other).key == other
        elsewhen = replace(later, time_s=80_000.0, epoch=1)
        assert source.get(elsewhen).key == elsewhen
    finally:
        source.close()
    source = field.FieldSource(Specimen(1, (64, 64)))
    try:
        monkeypatch.setattr(field, "_patience_s", lambda _field: 0.0)
        assert source.get(first).key == first
        assert source.get(later).key == later
    finally:
        source.close()


def test_the_camera_saturates_and_has_12_bits(twin: Microscope) -> None:
    twin.set_exposure_ms(20.0)
    twin.set_property("Camera", "PixelType", "12bit")
    frame = twin.snap()
    assert frame.pixels.dtype == np.uint16
    assert frame.bit_depth == 12
    assert frame.pixels.mean() == pytest.approx(0.6 * 4095, rel=0.05)
    assert relative_noise(frame) < 0.012
    twin.set_exposure_ms(60.0)
    assert twin.snap().pixels.min() == 4095
    twin.set_exposure_ms(2.0)
    dark = twin.snap()
    assert dark.pixels.mean() == pytest.approx(0.06 * 4095, rel=0.05)
    # Shot noise: a tenth of the light has sqrt(10) times the relative noise.
    assert 0.022 < relative_noise(dark) < 0.04
    assert twin.state().bit_depth == 12


def test_optical_properties_act_at_once(twin: Microscope) -> None:
    twin.set_exposure_ms(20.0)
    twin.set_defocus_um(6.0)
    twin.set_property("Camera", "Unevenness", 0.0)
    frame = twin.snap()
    assert relative_noise(frame, unevenness=0.0) < 0.012
    twin.set_property("Camera", "AbsorptionPerRad", 0.05)
    frame = twin.snap()
    assert relative_noise(frame, unevenness=0.0, kappa=0.05) < 0.012
    twin.set_property("Camera", "Coherence", 0.8)
    frame = twin.snap()
    expected = expected_counts(frame, OpticalSetup(coherence=0.8), unevenness=0.0, kappa=0.05)
    assert np.std(frame.pixels - expected) / expected.mean() < 0.012


def test_drift_moves_the_light_but_not_the_reading(twin: Microscope) -> None:
    twin.set_defocus_um(2.0)
    twin.set_property("Lens", "Drift-um-per-h", 36_000.0)
    frame = twin.snap()
    end_s = time.monotonic() + DEADLINE_S
    while frame.properties["Camera.TrueDefocus-um"] < 3.0:
        assert time.monotonic() < end_s
        frame = twin.snap()
        assert frame.defocus_um == 2.0
    twin.set_property("Lens", "Drift-um-per-h", 0.0)
    assert twin.snap().properties["Camera.TrueDefocus-um"] == 2.0


def test_a_settling_lens_is_waited_for(twin: Microscope) -> None:
    twin.set_property("Lens", "SettlingTime-ms", 150.0)
    for defocus_um in (10.0, -10.0, 3.5):
        assert twin.set_defocus_um(defocus_um) == defocus_um
        assert twin.snap().properties["Camera.TrueDefocus-um"] == defocus_um


def test_a_slot_may_ask_for_the_position(no_leaks: None) -> None:
    """In pymmcore-plus a slot of a signal that a device emits under its lock waits for that lock for ever."""
    core = UniMMCore()
    heard: list[tuple[str, float, float]] = []
    told = threading.Event()

    def slot(label: str, position_um: float) -> None:
        heard.append((label, position_um, core.getPosition(label)))
        told.set()

    try:
        core.loadPyDevice("Lens", TwinLens())
        core.initializeDevice("Lens")
        core.events.stagePositionChanged.connect(slot)
        core.setPosition("Lens", 7.0)
        assert told.wait(DEADLINE_S)
    finally:
        core.unloadAllDevices()
    assert heard == [("Lens", 7.0, 7.0)]


def test_two_microscopes_in_a_process_have_two_benches(make_config: MakeConfig, twin_cfg: str) -> None:
    recorded = ("Camera.TrueDefocus-um",)
    config = make_config(twin_cfg, lens="Lens", recorded_properties=recorded)
    with Microscope(config) as first, Microscope(config) as second:
        first.set_defocus_um(3.0)
        second.set_defocus_um(-5.0)
        assert first.snap().properties["Camera.TrueDefocus-um"] == 3.0
        assert second.snap().properties["Camera.TrueDefocus-um"] == -5.0


@pytest.mark.parametrize(("name", "pixel_um"), [("twin", 0.65), ("twin-40x", 0.17)])
def test_the_bundled_configurations_agree_with_their_optics(
    name: str, pixel_um: float, make_config: MakeConfig
) -> None:
    config = MicroscopeConfig.load(f"{name}.toml")
    full = config.cfg.read_text(encoding="utf-8")
    assert "OnCameraCCDXSize,647\n" in full
    assert "OnCameraCCDYSize,490\n" in full
    small = make_config(full.replace("CCDXSize,647", "CCDXSize,48").replace("CCDYSize,490", "CCDYSize,40"))
    with Microscope(config.model_copy(update={"cfg": small.cfg})) as microscope:
        assert microscope.get_property("Camera", "HRPixel-um") == pixel_um
        assert config.lr_pixel_um == pytest.approx(4 * pixel_um)
        for key, prop in (
            ("wavelength_um", "Wavelength-um"),
            ("objective_na", "ObjectiveNA"),
            ("coherence", "Coherence"),
        ):
            assert microscope.get_property("Camera", prop) == getattr(config, key)
        frame = microscope.snap()
        assert frame.pixels.shape == (40, 48)
        # The clock runs from 30 h on, and the specimen is shown in steps of 15 s.
        assert frame.properties["Camera.SpecimenTime-s"] >= 30 * 3600.0
        assert frame.properties["Camera.SpecimenTime-s"] % 15 == 0
        assert 0.5 < frame.pixels.mean() / 255 < 0.7
