"""Dark frame and flat field on the simulated microscope, and what an offset does to the phase."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from livephase.acquisition.reference_frames import DarkRequest, FlatRequest, Measurement
from livephase.errors import ConfigurationError
from livephase.inference.engine import PhaseEngine
from livephase.inference.protocol import WorkerSettings
from livephase.phase.library import find_model
from livephase.phase.reference import load_reference, net_reference, save_reference
from livephase_devices.config import MicroscopeConfig
from livephase_devices.microscope import Microscope
from livephase_devices.sensor import uneven_illumination
from livephase_devices.twin import truth_phase_rad
from livephase_devices.twin.lamp import dust_transmission

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from livephase.phase.reference import Reference, ReferenceInfo

SHAPE = (160, 200)
OFFSET = 100.0
LIGHT = 500 / 3995 / 0.6
"""Lamp level at which a frame has 500 counts above the offset at the standard exposure."""
CFG = f"""
#py pyDevice,Camera,livephase_devices.twin.camera,TwinCamera
#py pyDevice,Lens,livephase_devices.twin.lens,TwinLens
#py Property,Camera,OnCameraCCDXSize,{SHAPE[1]}
#py Property,Camera,OnCameraCCDYSize,{SHAPE[0]}
#py Property,Camera,StartTime-h,30
Property,Core,Initialize,1
#py Property,Camera,PixelType,12bit
#py Property,Camera,Exposure,1
"""


@pytest.fixture(scope="module")
def scope(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Microscope]:
    """Open a simulated microscope of 160 x 200 pixels with 12 bits."""
    cfg = tmp_path_factory.mktemp("scope") / "twin.cfg"
    cfg.write_text(CFG)
    config = MicroscopeConfig(
        name="twin",
        cfg=cfg,
        camera="Camera",
        lens="Lens",
        wavelength_um=0.55,
        objective_na=0.4,
        coherence=0.3,
        lr_pixel_um=2.6,
        recorded_properties=("Camera.SpecimenTime-s",),
        call_timeout_s=60.0,
    )
    with Microscope(config) as microscope:
        microscope.set_defocus_um(6.0)
        yield microscope


def adjust(scope: Microscope, **changes: Any) -> None:
    """Set all that these tests change, to usual values where nothing else is said."""
    usual = {
        "LampLevel": 20.0,  # 1 ms of exposure instead of 20
        "LampFlicker": 0.0,
        "Offset-counts": OFFSET,
        "Dust": 0,
        "Unevenness": 0.15,
        "Specimen": "in",
        "DishMoves": 0,
    }
    for name, value in (usual | {name.replace("_", "-"): value for name, value in changes.items()}).items():
        scope.set_property("Camera", name, value)


def measure(
    scope: Microscope, request: DarkRequest | FlatRequest, dark: Reference | None = None
) -> tuple[NDArray[np.float32], ReferenceInfo]:
    """Measure a reference frame."""
    return Measurement(request, scope.state(), scope.snap, lambda _: False, dark).run()


@pytest.fixture(scope="module")
def dark(scope: Microscope, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """Measure the dark frame."""
    adjust(scope, LampLevel=0)
    image, info = measure(scope, DarkRequest(frames=16))
    path = tmp_path_factory.mktemp("dark") / "dark.npz"
    save_reference(path, image, info)
    return load_reference(path, "dark")


def test_the_dark_frame_states_offset_and_read_noise(dark: Reference) -> None:
    figures = dark.info.figures
    assert figures["offset_counts"] == pytest.approx(OFFSET, abs=0.1)
    # 6 electrons of read noise, 20000 electrons over the range above the offset, and the rounding to whole counts.
    expected = np.hypot(6.0 / 20_000 * (4095 - OFFSET), 12**-0.5)
    assert figures["read_noise_counts"] == pytest.approx(expected, rel=0.05)
    assert figures["hot_pixels"] == 0
    assert dark.info.warnings == ()
    assert dark.info.sensor.shape == SHAPE
    assert dark.info.sensor.roi == (0, 0, SHAPE[1], SHAPE[0])
    assert dark.image.std() < 0.5


@pytest.mark.parametrize(("level", "specimen"), [(20.0, "in"), (20.0, "out"), (1.0, "in"), (1.0, "out")])
def test_a_lit_frame_is_no_dark_frame(scope: Microscope, level: float, specimen: str) -> None:
    """Also in dim light of 3 % of the range, by its unevenness."""
    adjust(scope, LampLevel=level, Specimen=specimen)
    with pytest.raises(ConfigurationError, match="this is no dark frame"):
        measure(scope, DarkRequest(frames=4))


def test_hot_pixels_are_counted(scope: Microscope) -> None:
    adjust(scope, LampLevel=0)
    hot = np.zeros(SHAPE, np.uint16)
    hot[[10, 50, 90], [20, 30, 40]] = 400

    def take() -> Any:
        frame = scope.snap()
        frame.pixels[:] += hot
        return frame

    image, info = Measurement(DarkRequest(frames=8), scope.state(), take, lambda _: False).run()
    assert info.figures["hot_pixels"] == 3
    assert info.figures["offset_counts"] == pytest.approx(OFFSET, abs=0.1)
    assert image[10, 20] == pytest.approx(OFFSET + 400, abs=2)


def error_of(flat: NDArray[np.float32], dark: Reference, dust: int) -> NDArray[np.float64]:
    """Relative error of a flat field against the simulated light."""
    truth = uneven_illumination(SHAPE, 0.3, 1) * dust_transmission(SHAPE, dust, 1)
    light = net_reference(flat, dark.image).astype(np.float64)
    return light / light.mean() / (truth / truth.mean()) - 1


@pytest.mark.parametrize(
    ("request_", "look", "bound"),
    [
        (FlatRequest(frames=16), {"Specimen": "out", "LampFlicker": 0.03}, 0.004),
        (FlatRequest(frames=24, method="fields"), {"DishMoves": 1, "LampFlicker": 0.03}, 0.003),
    ],
    ids=["empty", "fields"],
)
def test_uneven_light_and_dust_are_in_the_flat_field_and_cells_are_not(
    scope: Microscope, dark: Reference, request_: FlatRequest, look: dict[str, Any], bound: float
) -> None:
    adjust(scope, Unevenness=0.3, Dust=6, **look)
    image, info = measure(scope, request_, dark)
    error = error_of(image, dark, 6)
    assert error.std() < bound
    assert np.abs(error).max() < 0.03
    assert 0.001 < info.figures["structured_fraction"] < 0.02
    assert 0.01 < info.figures["flicker_sd"] < 0.06
    assert info.dark_sha256 == dark.sha256
    assert (info.smoothing_px is None) == (request_.method == "empty")


def test_a_dense_culture_that_is_moved_does_not_print_through(scope: Microscope, dark: Reference) -> None:
    """After 70 h the cells cover much of the field: one frame has ten times the contrast of the flat field's error."""
    adjust(scope, Unevenness=0.3, DishMoves=1)
    before = scope.get_property("Camera", "SpecimenTime-s-Set")
    scope.set_property("Camera", "SpecimenTime-s-Set", 70 * 3600.0)
    try:
        frame = scope.snap().pixels.astype(np.float32)
        image, _ = measure(scope, FlatRequest(frames=40, method="fields"), dark)
    finally:
        scope.set_property("Camera", "SpecimenTime-s-Set", before)
    contrast = error_of(frame, dark, 0)
    error = error_of(image, dark, 0)
    print(f"contrast of one frame {contrast.std():.4f}, error of the flat field {error.std():.5f}")
    assert contrast.std() > 0.04
    assert error.std() < 0.1 * contrast.std()


@pytest.mark.parametrize(
    ("request_", "look", "words"),
    [
        (FlatRequest(frames=4), {"LampLevel": 1.0}, "too dark for a flat field"),
        (FlatRequest(frames=4), {"LampLevel": 45.0, "Specimen": "out"}, "too bright for a flat field"),
        (FlatRequest(frames=4), {}, "no flat field: sharp structure .* move to a place without cells"),
        (FlatRequest(frames=8, method="fields"), {}, "no flat field: sharp structure .* move the dish further"),
    ],
    ids=["dark", "saturated", "cells", "not moved"],
)
def test_what_is_no_flat_field_is_refused_with_what_to_do(
    scope: Microscope, dark: Reference, request_: FlatRequest, look: dict[str, Any], words: str
) -> None:
    adjust(scope, **look)
    with pytest.raises(ConfigurationError, match=words):
        measure(scope, request_, dark)


def test_settings_that_change_during_a_measurement_end_it(scope: Microscope) -> None:
    adjust(scope, LampLevel=0)

    def wait(_: float) -> bool:
        scope.set_exposure_ms(scope.state().exposure_ms * 2)  # pyright: ignore[reportOptionalOperand]
        return False

    try:
        with pytest.raises(ConfigurationError, match="settings changed during the measurement"):
            Measurement(DarkRequest(frames=4), scope.state(), scope.snap, wait).run()
    finally:
        scope.set_exposure_ms(1.0)


def phase(frame_of: Any, **references: Any) -> NDArray[np.float32]:
    """Compute a phase in this process with the bundled model."""
    model = find_model("adaptive")
    settings: dict[str, Any] = {"flat_field": "auto", **references}
    flat_field = settings.pop("flat_field")
    engine = PhaseEngine(
        WorkerSettings(model.path, model.card.sha256, "torch-cpu", 2.6, 0.55, 0.3, 0.4, flat_field, 1, **settings)
    )
    out = np.empty((SHAPE[0] * 4, SHAPE[1] * 4), np.float32)
    phases: list[NDArray[np.float32]] = []
    for frame in frame_of:
        engine.compute(frame.pixels, 6.0, frame.bit_depth, out)
        phases.append(out.copy())
    return np.mean(phases, axis=0)


def slope(found: NDArray[Any], truth: NDArray[Any]) -> float:
    """Regression of a phase on another one."""
    found, truth = found - found.mean(), truth - truth.mean()
    return float((found * truth).sum() / (truth * truth).sum())


def test_an_offset_makes_the_phase_too_small_and_the_dark_frame_mends_it(scope: Microscope, dark: Reference) -> None:
    """100 of 600 counts are offset: the contrast is 5/6 of the true one."""
    adjust(scope, LampLevel=20 * LIGHT)
    offset = [scope.snap() for _ in range(4)]
    assert np.mean([frame.pixels.mean() for frame in offset]) == pytest.approx(600, abs=5)
    adjust(scope, LampLevel=20 * LIGHT, Offset_counts=0)
    clean = [scope.snap() for _ in range(4)]
    truth = truth_phase_rad(clean[0].properties["Camera.SpecimenTime-s"], sensor_shape=SHAPE)
    expected = slope(phase(clean), truth)
    without = slope(phase(offset), truth) / expected
    with_dark = slope(phase(offset, dark=dark.image), truth) / expected
    print(f"slope against the truth {expected:.3f}; with the offset {without:.3f} of it, mended {with_dark:.3f} of it")
    assert without == pytest.approx(5 / 6, abs=0.04)
    assert with_dark == pytest.approx(1.0, abs=0.02)


def test_dust_and_uneven_light_are_gone_from_the_phase_with_the_flat_field(scope: Microscope, dark: Reference) -> None:
    adjust(scope, Unevenness=0.3, Dust=6, Specimen="out")
    flat, _ = measure(scope, FlatRequest(frames=32), dark)
    adjust(scope, Unevenness=0.3, Dust=6)
    dusty = [scope.snap() for _ in range(2)]
    adjust(scope, Unevenness=0.0)
    even = [scope.snap() for _ in range(4)]
    expected = phase(even[:2], dark=dark.image, flat_field="none")
    again = phase(even[2:], dark=dark.image, flat_field="none")
    measured = phase(dusty, dark=dark.image, flat_field=net_reference(flat, dark.image))
    estimated = phase(dusty, dark=dark.image)

    near = binary_dilation(dust_transmission(SHAPE, 6, 1) < 0.98, iterations=3)
    near = near.repeat(4, axis=0).repeat(4, axis=1)

    def rmse(found: NDArray[np.float32]) -> tuple[float, float]:
        difference = found - expected
        return float(difference.std()), float(np.sqrt((difference[near] ** 2).mean()))

    for name, found in (("estimated", estimated), ("measured", measured), ("even light, other noise", again)):
        print(f"{name}: RMSE {rmse(found)[0]:.3f} rad over the field, {rmse(found)[1]:.3f} rad at the dust")
    # What is left is the noise of the exposures, which differs between any two frames.
    assert rmse(measured)[0] < 1.4 * rmse(again)[0]
    assert rmse(measured)[1] < 1.6 * rmse(again)[1]
    assert rmse(estimated)[0] > 2 * rmse(measured)[0]
    assert rmse(estimated)[1] > 4 * rmse(measured)[1]
