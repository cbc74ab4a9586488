"""Parts of the evaluation: dry mass, figures of merit, the rows beside the networks, the report, missing data."""

from __future__ import annotations

import base64
import json
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from livephase.cli import _run
from livephase.errors import ConfigurationError, ModelError
from livephase.evaluation import classical
from livephase.evaluation.drawing import new_figure
from livephase.evaluation.dry_mass import dry_mass_pg, mass_bias_percent, segment_cells
from livephase.evaluation.figures_of_merit import judge, summarise
from livephase.evaluation.measured import compare, judged_half
from livephase.evaluation.microlens import fit_lenses, microlens_figure
from livephase.evaluation.models import Model, Shelf, open_shelf
from livephase.evaluation.paper_frames import Z6, Frame, PaperFrames
from livephase.evaluation.report import Picture, Report, Table, Target, render_png
from livephase.evaluation.steps import Step, run_steps
from livephase.training.metrics import ssim, ssim_map
from livephase.training.paper_fields import SimulatedCulture
from livephase.training.paper_sets import Counts
from livephase_devices.optics import bin_pixels

if TYPE_CHECKING:
    from pathlib import Path

CULTURE = SimulatedCulture(seed=5, test_fields=1, side_px=512)


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> PaperFrames:
    return PaperFrames(CULTURE, tmp_path_factory.mktemp("frames"), Counts(8, 1, 3))


@pytest.fixture(scope="module")
def frame(frames: PaperFrames) -> Frame:
    return frames.field(Z6, 0)


def discs(*radii_px: int, phase_rad: float = 1.5) -> np.ndarray:
    image = np.zeros((160, 160 * len(radii_px)), np.float32)
    rows, columns = np.indices(image.shape)
    for number, radius in enumerate(radii_px):
        image[(rows - 80) ** 2 + (columns - 80 - 160 * number) ** 2 <= radius**2] = phase_rad
    return image


def test_dry_mass_of_discs_is_that_of_the_formula() -> None:
    """A disc of 20 um and 1.5 rad at 0.55 um: 1.5 x 0.55 / (2 pi 0.18) pg/um2 over its area."""
    phase = discs(40, 30)
    labels = segment_cells(phase, 0.5, 0.55)
    assert labels.max() == 2
    masses = sorted(dry_mass_pg(phase, labels, 0.5, 0.55), reverse=True)
    for mass, radius_um in zip(masses, (20, 15), strict=True):
        density = 1.5 * 0.55 / (2 * np.pi * 0.18)
        # Smoothing before the threshold rounds the rim: the cell's body is the whole disc here.
        assert mass == pytest.approx(density * np.pi * radius_um**2, rel=0.02)


def test_cells_at_the_border_and_debris_are_left_out() -> None:
    phase = discs(40, 30, 4)
    assert segment_cells(phase, 0.5, 0.55).max() == 2
    assert segment_cells(phase[:, 90:], 0.5, 0.55).max() == 1
    assert segment_cells(np.zeros((64, 64)), 0.5, 0.55).max() == 0


def test_touching_cells_are_divided() -> None:
    rows, columns = np.indices((200, 300))
    phase = sum(3 * np.exp(-((rows - 100) ** 2 + (columns - x) ** 2) / (2 * 18**2)) for x in (110, 180))
    labels = segment_cells(np.asarray(phase), 0.5, 0.55)
    assert labels.max() == 2
    counts = np.bincount(labels.ravel())[1:]
    assert abs(counts[0] - counts[1]) < 0.05 * counts.sum()


def test_mass_bias_in_per_cent() -> None:
    phase = discs(40, 30)
    labels = segment_cells(phase, 0.5, 0.55)
    np.testing.assert_allclose(mass_bias_percent(0.95 * phase, phase, labels), [-5, -5], atol=1e-4)
    assert len(mass_bias_percent(phase, phase, np.zeros_like(labels))) == 0


def test_figures_of_merit(frame: Frame) -> None:
    truth = frame.phase_rad
    assert frame.labels.max() > 0
    perfect = judge(truth * np.float32(1.0001), truth, frame.labels, 0.65)
    assert perfect.ssim == pytest.approx(1, abs=1e-5)
    assert max(perfect.nrmse) < 0.01
    noise = np.random.default_rng(0).standard_normal(truth.shape, dtype=np.float32)
    noisy = np.asarray(truth + 0.05 * noise, np.float32)
    merit = judge(noisy, truth, frame.labels, 0.65)
    span = float(np.ptp(truth))
    expected = structural_similarity(
        truth.astype(float), noisy.astype(float), gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        data_range=span,
    )  # fmt: skip
    assert merit.ssim == pytest.approx(expected, abs=1e-6)
    assert merit.rmse_rad == pytest.approx(0.05, rel=0.01)
    both = summarise([perfect, merit])
    assert both["ssim_low"] == merit.ssim
    assert both["ssim"] == pytest.approx((1 + merit.ssim) / 2)
    assert both["cells"] == 2 * frame.labels.max()
    assert both["mass_bias_percent"] == pytest.approx(0, abs=0.5)


def test_ssim_is_the_mean_of_its_map(frame: Frame) -> None:
    truth = frame.phase_rad
    whole = ssim_map(0.9 * truth, truth, float(np.ptp(truth)))
    assert whole.shape == truth.shape
    assert ssim(0.9 * truth, truth) == pytest.approx(whole[5:-5, 5:-5].mean())


def test_the_oracle_has_no_error_but_at_short_periods(frame: Frame) -> None:
    oracle = classical.oracle(frame.phase_rad)
    np.testing.assert_allclose(bin_pixels(oracle, 4).mean(), frame.phase_rad.mean(), rtol=1e-3)
    linear = classical.linear(frame.intensity, frame.phase_rad, frame.setup, frame.defocus_um, frame.noise_sd)
    assert linear.mean() == pytest.approx(frame.phase_rad.mean(), abs=1e-4)
    best, row = (judge(image, frame.phase_rad, frame.labels, 0.65) for image in (oracle, linear))
    assert best.ssim > 0.9 > row.ssim
    assert best.nrmse[0] < 0.02
    assert best.nrmse[-1] > 0.7
    assert best.rmse_rad < row.rmse_rad


def test_enlarging_keeps_places() -> None:
    """The centre of a blob stays where it was: corners of pixels coincide, not their centres."""
    rows, columns = np.indices((96, 96))
    blob = np.exp(-((rows - 40.5) ** 2 + (columns - 57.5) ** 2) / (2 * 12**2)).astype(np.float32)
    large = classical.enlarge(bin_pixels(blob, 4))
    assert np.sum(large * rows) / large.sum() == pytest.approx(40.5, abs=0.05)
    assert np.sum(large * columns) / large.sum() == pytest.approx(57.5, abs=0.05)


def test_either_noise_is_what_it_says(frames: PaperFrames) -> None:
    paper, hard = frames.field(Z6, 0, "paper"), frames.field(Z6, 0, "frame")
    assert (paper.noise_sd, hard.noise_sd) == (0.0025, 0.01)
    added = hard.intensity - paper.intensity
    assert added.std() == pytest.approx(np.sqrt(0.01**2 - 0.0025**2), rel=0.03)
    np.testing.assert_array_equal(hard.intensity, frames.field(Z6, 0, "frame").intensity)
    assert frames.field(Z6, 0, "frame", 0.02).noise_sd == 0.02


def test_a_net_of_one_condition_is_told_its_own(untrained_model: Path, frame: Frame) -> None:
    model = Model("untrained", untrained_model)
    assert model.told(9.0, frame.setup).defocus_um == 9.0
    assert model.told(9.0, frame.setup, coherence_known=False).coherence is None
    valid = model.card.valid.model_copy(update={"defocus_um": (3.0, 3.0), "coherence": (0.3, 0.3)})
    model.__dict__["card"] = model.card.model_copy(update={"valid": valid})
    told = model.told(9.0, frame.setup)
    assert (told.defocus_um, told.coherence) == (3.0, 0.3)


def test_missing_networks_are_named(untrained_model: Path, tmp_path: Path) -> None:
    shelf = open_shelf(untrained_model, bundled=[untrained_model], comparison=tmp_path)
    assert shelf.named == {}
    assert shelf.missing("fast", "srcnn-z6") == ["fast", "srcnn-z6"]
    assert [model.path for model in shelf.all()] == [untrained_model]


def test_an_installation_without_models_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="--model"):
        open_shelf(bundled=[], comparison=tmp_path)


def test_agreement_forgives_offset_and_scale_where_it_says_so(frame: Frame) -> None:
    truth = frame.phase_rad
    judged = np.zeros(truth.shape, np.bool_)
    judged[40:-40, 40:-40] = True
    shifted = compare(truth + np.float32(3), truth, judged, 0.65)
    assert shifted.ssim_absolute == pytest.approx(1, abs=1e-5)
    half = compare(0.5 * truth, truth, judged, 0.65)
    assert half.slope == pytest.approx(0.5, abs=1e-4)
    assert half.correlation == pytest.approx(1)
    assert half.ssim_free == pytest.approx(1, abs=1e-5)
    assert half.ssim_absolute < 0.95
    assert half.pixels == judged.sum()


@pytest.mark.parametrize(("half", "kept"), [("left", (0, 9)), ("right", (0, 0)), ("top", (9, 0)), ("bottom", (0, 0))])
def test_the_half_that_trained_is_not_judged(untrained_model: Path, half: str, kept: tuple[int, int]) -> None:
    model = Model("untrained", untrained_model)
    training = {"measured_files": ["other-left", f"tie_hela-{half}"]}
    model.__dict__["card"] = model.card.model_copy(update={"training": training})
    mask, text = judged_half(model, "tie_hela", (10, 10), 1)
    assert mask[kept]
    assert mask.sum() == 40
    assert half in text
    assert judged_half(model, "another", (10, 10), 1)[0].all()


def test_a_lens_is_fitted() -> None:
    rows, columns = np.indices((300, 300)) * 0.2325
    squared = (rows - 35) ** 2 + (columns - 34) ** 2
    phase = np.maximum(-np.pi / (0.55 * 56) * (squared - 25**2), 0).astype(np.float32)
    (lens,) = fit_lenses(phase, np.ones(phase.shape, np.bool_))
    assert lens.focal_um == pytest.approx(56, rel=0.01)
    assert lens.centre_px == pytest.approx((35 / 0.2325, 34 / 0.2325), abs=0.6)


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[bytes] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "img":
            source = given["src"] or ""
            assert source.startswith("data:image/png;base64,")
            self.images.append(base64.b64decode(source.split(",", 1)[1]))
        elif tag != "meta":
            self.open.append(tag)
        if given.get("id"):
            self.ids.append(given["id"] or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_report_is_one_page_and_one_json(tmp_path: Path) -> None:
    figure = new_figure(2, 2)
    figure.subplots().plot([0, 1])
    report = Report("tiny", "A <title>", "Intro & more", {"software": {"python": "3"}}, [])
    report.pictures.append(Picture("figx", "Figure x", "a < b", render_png(figure), {"value": float("nan")}))
    report.tables.append(Table("t", "T", "", ["a", "b"], [["x", 0.12345], ["y", None]]))
    report.targets.append(Target("SSIM", "0.95", "0.96", "0.97", 0.98765, None, "", "n = 1"))
    page, numbers = report.write(tmp_path / "new")
    parsed = _Page()
    parsed.feed(page.read_text(encoding="utf-8"))
    assert parsed.open == []
    assert parsed.images[0].startswith(b"\x89PNG")
    assert {"figure-figx", "table-t", "table-targets"} <= set(parsed.ids)
    text = page.read_text(encoding="utf-8")
    assert "0.123" in text
    assert "0.988" in text
    assert "a &lt; b" in text
    content = json.loads(numbers.read_text(encoding="utf-8"))
    assert content["figures"]["figx"]["value"] is None
    assert content["tables"]["t"]["rows"] == [["x", 0.12345], ["y", None]]
    assert content["targets"][0]["measured"] == 0.98765
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="--out"):
        report.write(tmp_path / "file")


def test_steps_tell_their_share() -> None:
    told: list[tuple[str, float]] = []
    done: list[str] = []
    steps = [Step("a", 1, lambda: done.append("a")), Step("b", 3, lambda: done.append("b"))]
    run_steps(steps, lambda name, share: told.append((name, share)))
    assert done == ["a", "b"]
    assert told == [("a", 0.0), ("b", 0.25), ("done", 1.0)]


@pytest.mark.parametrize("suite", ["paper", "real"])
def test_missing_data_is_one_line(
    suite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LIVEPHASE_SHARED", str(tmp_path / "nowhere"))
    assert _run(["evaluate", "--suite", suite, "--out", str(tmp_path / "out")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("livephase: the measured data are not at")
    assert "LIVEPHASE_SHARED" in lines[0]
    assert not list(tmp_path.glob("out/*.html"))
    (tmp_path / "nowhere" / "data" / "qpi_cells").mkdir(parents=True)
    assert _run(["evaluate", "--suite", suite, "--out", str(tmp_path / "out")]) == 2
    assert "dense_003.npz" in capsys.readouterr().err


def test_wrong_model_and_wrong_suite_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"PK")
    assert _run(["evaluate", "--suite", "real", "--out", str(tmp_path), "--model", str(bad)]) == 2
    assert "pickle" in capsys.readouterr().err
    assert _run(["evaluate", "--suite", "other", "--out", str(tmp_path)]) == 2


@pytest.mark.real_data
def test_measured_microlenses_agree(untrained_model: Path) -> None:
    from livephase.evaluation.environment import shared_data

    try:
        folder = shared_data() / "tie_microlens"
    except ConfigurationError as error:
        pytest.skip(str(error))
    picture = microlens_figure(folder, Shelf(Model("untrained", untrained_model)))
    focal = picture.data["focal_um"]
    assert len(focal) >= 4
    assert all(52 < value < 60 for value in focal)
    assert picture.data["errors"]["TIE of the binned pair"]["rmse_rad"] < 0.03 * picture.data["peak_to_valley_rad"]
