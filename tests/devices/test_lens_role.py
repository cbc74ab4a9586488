"""The lens by configuration: a stage or a numeric property, with its own unit, limits and confirmation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from livephase_devices.errors import DeviceError, DeviceNotFoundError, PropertyError, PropertyNotFoundError
from livephase_devices.microscope import Microscope

if TYPE_CHECKING:
    from pathlib import Path

    from devices.conftest import MakeConfig

pytestmark = pytest.mark.usefixtures("no_leaks")

DOTTED = """
Device,Z.upper,DemoCamera,DStage
Device,Camera,DemoCamera,DCam
Property,Core,Initialize,1
"""
AMBIGUOUS_MODULE = """
from livephase_devices.faults import FaultyLens
from livephase_devices.python_device import add_property

class DottedLens(FaultyLens):
    def __init__(self):
        super().__init__()
        add_property(self, "upper.Position", float, self.get_position_um, self.set_position_um)
"""


@pytest.mark.parametrize(
    ("um_per_unit", "focus", "limits_um"), [(0.1, 50.0, (-25.0, 15.0)), (-0.5, 20.0, (-90.0, 110.0))]
)
def test_a_numeric_property_of_a_compiled_device(
    make_config: MakeConfig, demo_cfg: str, um_per_unit: float, focus: float, limits_um: tuple[float, float]
) -> None:
    config = make_config(demo_cfg, lens="Camera.TestProperty2", lens_um_per_unit=um_per_unit, lens_focus_position=focus)
    with Microscope(config) as microscope:
        microscope.set_property("Camera", "TestProperty2", focus)
        assert microscope.snap().defocus_um == 0.0
        assert microscope.state().defocus_limits_um == pytest.approx(limits_um)
        assert microscope.set_defocus_um(5.0) == pytest.approx(5.0, abs=1e-3)
        assert microscope.get_property("Camera", "TestProperty2") == pytest.approx(focus + 5.0 / um_per_unit, abs=1e-3)
        assert microscope.snap().defocus_um == pytest.approx(5.0, abs=1e-3)
        for outside in (limits_um[0] - 0.1, limits_um[1] + 0.1):
            with pytest.raises(PropertyError, match=r"^Camera: a defocus of .* is outside its range of"):
                microscope.set_defocus_um(outside)
        assert microscope.state().defocus_um == pytest.approx(5.0, abs=1e-3)
        for end in limits_um:
            assert microscope.set_defocus_um(end) == pytest.approx(end, abs=1e-3)


def test_a_property_without_limits_goes_anywhere(make_config: MakeConfig, demo_cfg: str) -> None:
    with Microscope(make_config(demo_cfg, lens="Camera.TestProperty5")) as microscope:
        assert microscope.state().defocus_limits_um is None
        assert microscope.set_defocus_um(-1234.5) == pytest.approx(-1234.5)


def test_a_whole_number_is_stated_as_it_is_and_refused_when_it_is_too_coarse(
    make_config: MakeConfig, demo_cfg: str
) -> None:
    with Microscope(make_config(demo_cfg, lens="Camera.Gain", lens_um_per_unit=0.5)) as microscope:
        assert microscope.state().defocus_limits_um == (-2.5, 4.0)
        assert microscope.set_defocus_um(1.3) == 1.5
        assert microscope.snap().defocus_um == 1.5
    with Microscope(make_config(demo_cfg, lens="Camera.Gain", lens_um_per_unit=10.0)) as microscope:
        with pytest.raises(DeviceError, match=r"^Camera: was sent to a defocus of 14 um but reports 10 um"):
            microscope.set_defocus_um(14.0)
        assert microscope.snap().defocus_um == 10.0


@pytest.mark.parametrize(
    ("lens", "kind", "message"),
    [
        ("Camera.PixelType", PropertyError, "^Camera: the property 'PixelType' has the role lens but is text"),
        ("Camera.CCDTemperature RO", PropertyError, "has the role lens but cannot be set at run time"),
        ("Camera.MaximumExposureMs", PropertyError, "has the role lens but cannot be set at run time"),
        ("Camera.Binning", PropertyError, "has the role lens but has only the values 1, 2, 4, 8"),
        ("Camera.Current-mA", PropertyNotFoundError, r"^Camera: the role lens names its property 'Current-mA', but"),
        ("Lens.Current-mA", DeviceNotFoundError, r"^Lens.Current-mA: the role lens .* in it: Z\)"),
        ("Core.Focus", DeviceNotFoundError, r"^Core.Focus: the role lens"),
        ("Z.", PropertyNotFoundError, "^Z: the role lens names its property ''"),
    ],
)
def test_a_role_that_cannot_be_had(
    make_config: MakeConfig, demo_cfg: str, lens: str, kind: type[DeviceError], message: str
) -> None:
    microscope = Microscope(make_config(demo_cfg, lens=lens))
    with pytest.raises(kind, match=message) as caught:
        microscope.open()
    assert "\n" not in str(caught.value)
    assert not microscope.state().is_open


def test_labels_may_hold_dots(make_config: MakeConfig) -> None:
    for lens in ("Z.upper", "Z.upper.Position"):
        with Microscope(make_config(DOTTED, lens=lens, recorded_properties=("Z.upper.Position",))) as microscope:
            assert microscope.set_defocus_um(7.0) == 7.0
            assert microscope.get_property("Z.upper", "Position") == 7.0
            assert microscope.snap().properties == {"Z.upper.Position": 7.0}


def test_a_name_that_means_two_properties_is_refused(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dotted_lens.py").write_text(AMBIGUOUS_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    cfg = "#py pyDevice,Z,dotted_lens,DottedLens\n" + DOTTED
    with pytest.raises(PropertyError, match=r"^Z.upper.Position: this is a property of 'Z' and 'Z.upper'"):
        Microscope(make_config(cfg, lens="Z.upper.Position")).open()
    # the label of a device is that device
    with Microscope(make_config(cfg, lens="Z.upper")) as microscope:
        assert microscope.set_defocus_um(2.0) == 2.0
        assert microscope.get_property("Z", "upper.Position") == 0.0


def test_the_settling_time_is_waited_for(make_config: MakeConfig, faulty_cfg: str) -> None:
    with Microscope(make_config(faulty_cfg, lens="Lens.Current-mA", lens_settle_s=0.05)) as microscope:
        before_ns = microscope.snap().time_monotonic_ns
        microscope.set_defocus_um(1.0)
        assert microscope.snap().time_monotonic_ns - before_ns >= 50_000_000


def test_a_position_that_is_no_number_is_never_a_focus(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lost_lens.py").write_text(
        "from livephase_devices.faults import FaultyLens\n"
        "class LostLens(FaultyLens):\n"
        "    def get_position_um(self):\n"
        "        return self._position_um if self._position_um < 5 else float('nan')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    cfg = "#py pyDevice,Lens,lost_lens,LostLens\n" + "Device,Camera,DemoCamera,DCam\nProperty,Core,Initialize,1\n"
    for lens in ("Lens", "Lens.Current-mA"):
        with Microscope(make_config(cfg, lens=lens)) as microscope:
            assert microscope.set_defocus_um(4.0) == 4.0
            with pytest.raises(DeviceError, match=r"^Lens: reports nan as its position"):
                microscope.set_defocus_um(6.0)
            with pytest.raises(DeviceError, match=r"^Lens: reports nan as its position"):
                microscope.snap()
