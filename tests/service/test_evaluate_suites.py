"""Both suites from end to end at a small size, with an untrained network and measured-like files made here.

The files are simulated: what is tested is that the suites run, and that their numbers are those of the pictures they
describe. ``test_evaluate_parts`` has the test on real microlenses.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
import torch
from skimage.metrics import structural_similarity

from livephase.cli import _run
from livephase.evaluation.dry_mass import segment_cells
from livephase.evaluation.methods import LINEAR, ORACLE
from livephase.evaluation.models import open_shelf
from livephase.evaluation.paper_frames import Z6, PaperFrames
from livephase.evaluation.real_phase import measured_source
from livephase.evaluation.suite_paper import PaperSize, run_paper
from livephase.phase.conditions import Conditions
from livephase.phase.modelfile import INPUT_GAIN
from livephase.phase.weights import load_network
from livephase.training.fields import simulated_field
from livephase.training.paper_fields import SimulatedCulture
from livephase.training.paper_sets import Counts
from livephase.training.paper_specs import DEFOCUS_SETS
from livephase_devices.optics import OpticalSetup, intensity

if TYPE_CHECKING:
    from pathlib import Path

    from livephase.evaluation.models import Shelf
    from livephase.evaluation.report import Report

CULTURE = SimulatedCulture(seed=5, test_fields=1, side_px=512)
SIZE = PaperSize(CULTURE, Counts(8, 1, 3), (64, 96), 256, 1)
PAPER_FIGURES = {"fig3", "fig4b", "fig4c", "fig5b", "fig5c", "fig6a", "fig6b", "fig7", "fig8"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write files like the measured ones."""
    folder = tmp_path_factory.mktemp("shared") / "data"
    folder.mkdir()
    for name in ("qpi_cells", "tie_hela", "tie_microlens", "defocus_stack"):
        (folder / name).mkdir()
    for seed, name in enumerate(("dense_001", "dense_003", "dense_004", "dense_008")):
        phase = simulated_field(seed, (304, 304), 0.65, (0.3, 0.3))
        labels = segment_cells(phase, 0.65, 0.55).astype(np.uint16)
        np.savez(
            folder / "qpi_cells" / f"{name}.npz", phase_rad=phase, labels=labels, pixel_um=0.65, wavelength_um=0.55
        )
    hela = simulated_field(7, (480, 480), 0.2325, (0.6, 0.6))
    setup = OpticalSetup(0.55, 0.45, 0.4, 0.2325, 4)
    stop = np.zeros((480, 480), np.float32)
    stop[30:-30, 30:-30] = 1
    for name, defocus in (("I0", 0.0), ("Iz", 2.5)):
        frame = 100 * stop * intensity(hela, setup, defocus) + 2
        tifffile.imwrite(folder / "tie_hela" / f"{name}.tif", np.rint(frame).clip(0, 255).astype(np.uint8))
    rows, columns = np.indices((280, 280)) * 0.2325
    lens = np.maximum(np.pi / (0.55 * 56) * (22**2 - (rows - 32) ** 2 - (columns - 33) ** 2), 0)
    curvature = np.zeros(lens.shape)
    for axis in (0, 1):
        curvature += np.gradient(np.gradient(lens, 0.2325, axis=axis), 0.2325, axis=axis)
    for name, plane in (("I0", np.full(lens.shape, 120.0)), ("Iz", 120 + 120 * 0.55 / (2 * np.pi) * curvature)):
        tifffile.imwrite(folder / "tie_microlens" / f"{name}.tif", plane.astype(np.float32))
    cells = simulated_field(8, (720, 720), 0.2004, (0.5, 0.5))
    setup = OpticalSetup(0.55, 0.6, 0.4, 0.2004, 4)
    for name, stage in (("z-10.3", -10.3), ("z-00.65_init", -0.65), ("z+00.0", 0.0), ("z+09.75", 9.75)):
        seen = 150 * intensity(cells, setup, -stage)
        noisy = seen + np.random.default_rng(round(abs(stage))).normal(0, 1.0, seen.shape)
        tifffile.imwrite(folder / "defocus_stack" / f"{name}.tif", np.rint(noisy).clip(0, 255).astype(np.uint8))
    return folder


@pytest.fixture(scope="module")
def shelf(untrained_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return open_shelf(untrained_model, bundled=[untrained_model], comparison=tmp_path_factory.mktemp("none"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def paper(data: Path, shelf: Shelf, cache: Path) -> Report:
    return run_paper(shelf, data, measured_source(data / "qpi_cells"), cache, SIZE)


@pytest.fixture(scope="module")
def real(data: Path, untrained_model: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run the command line; return the JSON."""
    out = tmp_path_factory.mktemp("real")
    paths = ["--out", str(out), "--model", str(untrained_model), "--cache", str(cache)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIVEPHASE_SHARED", str(data.parent))
        assert _run(["evaluate", "--suite", "real", *paths]) == 0
    page = (out / "real.html").read_text(encoding="utf-8")
    content = json.loads((out / "real.json").read_text(encoding="utf-8"))
    assert page.count("data:image/png;base64,") == len(content["figures"])
    return content


def skimage_ssim(estimate: np.ndarray, truth: np.ndarray) -> float:
    a, b = estimate.astype(np.float64), truth.astype(np.float64)
    options: Any = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    value: Any = structural_similarity(b, a, data_range=np.ptp(b), **options)
    return float(value)


def column(table: dict[str, Any], name: str) -> dict[str, Any]:
    index = table["columns"].index(name)
    return {row[0]: row[index] for row in table["rows"]}


def test_the_paper_suite_has_every_figure_and_row(paper: Report, tmp_path: Path) -> None:
    assert {picture.key for picture in paper.pictures} == PAPER_FIGURES
    page, numbers = paper.write(tmp_path)
    text = page.read_text(encoding="utf-8")
    for key in PAPER_FIGURES:
        assert f'id="figure-{key}"' in text
    assert text.count("data:image/png;base64,") == len(PAPER_FIGURES)
    assert "http" not in text
    content = json.loads(numbers.read_text(encoding="utf-8"))
    assert set(content) == {"suite", "software", "hardware", "models", "figures", "tables", "targets"}
    assert len(content["targets"]) == 11
    fast = next(row for row in content["targets"] if row["name"].endswith(", fast"))
    assert fast["measured"] is None
    assert fast["note"] == "not in this installation"
    missing = [row[0] for row in content["tables"]["models"]["rows"] if row[1] == "not in this installation"]
    assert {"fast", "adaptive-40x", "srcnn-z6", "fixed-z3"} <= set(missing)
    both = [row for row in content["targets"] if row["measured"] is not None and row["unit"] != "s"]
    assert all(row["measured_frame_noise"] is not None for row in both)
    assert len(both) == 9


def test_the_full_field_numbers_are_those_of_the_phase(paper: Report, shelf: Shelf, cache: Path) -> None:
    frame = PaperFrames(CULTURE, cache, SIZE.counts).field(Z6, 0)
    model = shelf.shipped
    phase = model.field(frame.intensity, model.told(6.0, frame.setup))
    content = paper.content()
    found = column(content["tables"]["methods_paper"], "SSIM, mean")[model.label]
    assert found == pytest.approx(skimage_ssim(phase, frame.phase_rad), abs=1e-5)
    assert found == content["figures"]["fig3"]["ssim_of_field"][model.label]
    assert content["targets"][0]["measured"] == found
    for noise in ("paper", "frame"):
        table = content["tables"][f"methods_{noise}"]
        for better in ("SSIM, mean", "PSNR (dB)"):
            values = column(table, better)
            assert values[ORACLE] > values[LINEAR]
        assert column(table, "cells")[model.label] == frame.labels.max()
    bias = column(content["tables"]["methods_paper"], "dry-mass bias (%)")[model.label]
    inside = [
        100 * (phase[frame.labels == i].sum() / frame.phase_rad[frame.labels == i].sum() - 1)
        for i in range(1, int(frame.labels.max()) + 1)
    ]
    assert bias == pytest.approx(np.median(inside), rel=1e-3)


def test_the_patch_numbers_are_those_of_the_network(paper: Report, shelf: Shelf, cache: Path) -> None:
    """Recomputed from frame and phase of the set, without the evaluation's own network code."""
    frames = PaperFrames(CULTURE, cache, SIZE.counts)
    one = frames._set(DEFOCUS_SETS[8])
    patches, frame = one.test, one.test_field(0)[0]
    network, _ = load_network(shelf.shipped.path)
    told = torch.from_numpy(Conditions(9.0, 0.55, 2.6, 0.0).vector())[None]
    scores: list[float] = []
    for intensity_patch, phase in zip(patches.intensity, patches.phase_rad, strict=True):
        with torch.inference_mode():
            contrast = torch.from_numpy(intensity_patch / frame.mean() - 1)
            estimate = network(INPUT_GAIN * contrast[None, None], told)
        scores.append(skimage_ssim(estimate[0, 0].numpy(), phase.astype(np.float32)))
    data = paper.content()["figures"]["fig4c"]
    assert data["positions"][8] == 9.0
    np.testing.assert_allclose(data["ssim_of_patches"][f"{shelf.shipped.label}; noise paper"][8], scores, atol=1e-5)
    assert len(data["mean_ssim"][f"{shelf.shipped.label}; noise frame"]) == 13


def test_the_microlens_is_measured(paper: Report) -> None:
    data = paper.content()["figures"]["fig6a"]
    assert data["focal_um"] == [pytest.approx(56, rel=0.03)]
    assert "No network was trained on microlenses" in data["caption"]


def test_the_real_suite(real: dict[str, Any], shelf: Shelf, data: Path, cache: Path) -> None:
    content = real
    assert {"real_phase", "hela_untrained", "defocus_stack", "microlens"} <= set(content["figures"])
    table = content["tables"]["real_phase"]
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]
    assert {(row["z (um)"], row["noise sd on the frame"]) for row in rows} == {
        (z, noise) for z in ("3", "4", "6", "9", "13") for noise in ("0.0025", "0.01", "0.02")
    }
    frame = PaperFrames(measured_source(data / "qpi_cells"), cache).field(Z6, 1)
    phase = shelf.shipped.field(frame.intensity, shelf.shipped.told(6.0, frame.setup))
    scores = content["figures"]["real_phase"]["ssim"]
    assert scores[1] == pytest.approx(skimage_ssim(phase, frame.phase_rad), abs=1e-5)
    assert "held back" in content["figures"]["real_phase"]["caption"]


def test_labels_of_measured_fields_stay_with_their_cells(data: Path, cache: Path) -> None:
    frame = PaperFrames(measured_source(data / "qpi_cells"), cache).field(Z6, 0)
    inside, outside = frame.phase_rad[frame.labels > 0], frame.phase_rad[frame.labels == 0]
    assert inside.mean() > 5 * outside.mean()
    edge = np.concatenate([frame.labels[0], frame.labels[-1], frame.labels[:, 0], frame.labels[:, -1]])
    whole = np.unique(frame.labels)
    assert len(whole) == frame.labels.max() + 1
    assert not edge.any()


def test_the_stack_is_solved_with_the_lens_sign(real: dict[str, Any]) -> None:
    """The stage moves against the lens, so TIE finds cells that delay light; and a plane out of range is named."""
    data = real["figures"]["defocus_stack"]
    assert data["z-10.3.tif"]["range_problems"] == []
    assert "defocus_um = -9.75" in data["z+09.75.tif"]["range_problems"][0]
    assert data["tie_percentiles_rad"][1] > -data["tie_percentiles_rad"][0]
