"""Training: deterministic, resumable after a real kill, and ending in a model file that can be judged."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from livephase.errors import ConfigurationError, ModelError
from livephase.phase.modelfile import read_card
from livephase.phase.weights import load_network
from livephase.training import calibration, validation
from livephase.training.batches import GeneratedBatches, StoredBatches
from livephase.training.command import train
from livephase.training.loop import PhaseLoss, learning_rate, start_network
from livephase.training.metrics import nrmse_by_period, psnr_db, rmse_rad, ssim
from livephase.training.pairs import make_pairs
from livephase.training.recipe import load_recipe
from livephase_devices.optics import OpticalSetup, bin_pixels, intensity

if TYPE_CHECKING:
    from pathlib import Path

RECIPE = """
name = "tiny"
version = "1"
[architecture]
name = "subpixel-unet"
width = 8
[data]
simulated_fields = 1
pairs_for_each_field = 4
patch_lr_px = 32
[optics]
[training]
steps = {steps}
batch = 2
checkpoint_every = 10
validate_every = 1000
[valid]
defocus_um = [1.0, 13.0]
wavelength_um = [0.52, 0.58]
lr_pixel_um = [2.5, 2.7]
coherence = [0.0, 0.6]
noise_sd = [0.002, 0.03]
"""


CPU = torch.device("cpu")


@pytest.fixture
def small_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judge on fields of 512 pixels at one defocus, and calibrate on a few, so that a test costs seconds."""
    full = validation.simulated_field
    monkeypatch.setattr(validation, "simulated_field", lambda seed, _shape, *rest: full(seed, (512, 512), *rest))
    monkeypatch.setattr(validation, "FINAL_DEFOCI_UM", (6.0,))
    monkeypatch.setattr(calibration, "simulated_field", lambda seed, **options: full(seed, (512, 512), **options))
    monkeypatch.setattr(calibration, "SPECIMENS", 4)


def write_recipe(folder: Path, steps: int = 40, text: str = RECIPE) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text.format(steps=steps), encoding="utf-8")
    return path


def test_a_killed_run_goes_on_and_gives_the_same_weights(tmp_path: Path, small_validation: None) -> None:
    recipe = write_recipe(tmp_path, steps=120)
    unbroken = train(recipe, tmp_path / "unbroken", device="cpu")
    broken = tmp_path / "broken"
    script = (
        "import sys; from pathlib import Path; from livephase.training.command import train;"
        "train(Path(sys.argv[1]), Path(sys.argv[2]), device='cpu')"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(recipe), str(broken)], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (broken / "checkpoint.safetensors").exists():
        assert process.poll() is None, "training ended before its first checkpoint"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert not (broken / "tiny-1.safetensors").exists(), "the run finished before it was killed"
    resumed = train(recipe, broken, device="cpu")
    a, b = load_network(tmp_path / "unbroken" / "tiny-1.safetensors")[0], load_network(broken / "tiny-1.safetensors")[0]
    for (name, one), two in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        # Thread counts of the two processes may differ, and with them the order of sums in bf16.
        torch.testing.assert_close(one, two, atol=2e-3, rtol=0, msg=lambda m, n=name: f"{n}: {m}")
    assert resumed.training["steps"] == unbroken.training["steps"] == 120
    log, whole = (
        [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        for folder in (broken, tmp_path / "unbroken")
    )
    assert [entry["step"] for entry in log] == [entry["step"] for entry in whole] == [100, 120]
    # The mean over the 100 steps, those before the kill included.
    assert log[0]["loss"] == pytest.approx(whole[0]["loss"], rel=0.01)
    assert (broken / "curves.png").stat().st_size > 5000


def test_the_model_file_states_its_training_and_figures(tmp_path: Path, small_validation: None) -> None:
    train(write_recipe(tmp_path, steps=2), tmp_path / "run", device="cpu")
    card = read_card(tmp_path / "run" / "tiny-1.safetensors")
    assert card.valid.defocus_um == (1.0, 13.0)
    assert card.training["recipe"]["data"]["simulated_fields"] == 1
    assert len(card.training["data_sha256"]) == 64
    assert 0 < card.figures["simulated z=6 um"]["ssim"] < 1
    assert card.figures["conditions"]["noise_sd"] == 0.01
    assert card.misfit is not None
    assert card.misfit.frames == 16
    assert card.misfit.threshold > 1


def test_pairs_obey_the_forward_model_and_are_reused(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path))
    pairs = make_pairs(recipe, tmp_path)
    again = make_pairs(recipe, tmp_path)
    np.testing.assert_array_equal(pairs.intensity, again.intensity)
    assert pairs.intensity.shape == (4, 32, 32)
    assert pairs.phase_rad.shape == (4, 128, 128)
    low, high = recipe.optics.defocus_um
    numbers = pairs.conditions[:, 0]
    assert ((numbers > low * 0.52 / 2.68**2) & (numbers < high * 0.58 / 2.52**2)).all()
    assert (pairs.conditions[:, 2] == 1).all()


def test_pairs_are_the_forward_model_of_their_phase(tmp_path: Path) -> None:
    fixed = """[optics]
defocus_um = [6.0, 6.0]
coherence = [0.3, 0.3]
wavelength_um = [0.55, 0.55]
hr_pixel_um = [0.65, 0.65]
kappa_per_rad = [0.02, 0.02]
"""
    pairs = make_pairs(load_recipe(write_recipe(tmp_path, text=RECIPE.replace("[optics]", fixed))), tmp_path)
    for frame, phase in zip(pairs.intensity, pairs.phase_rad.astype(np.float32), strict=True):
        if phase[32:-32, 32:-32].std() < 0.2:
            continue
        # The surroundings of its patch are not in a pair.
        image = bin_pixels(intensity(phase, OpticalSetup(), 6.0, 0.02), 4)
        inner = slice(8, -8)
        assert np.corrcoef(image[inner, inner].ravel(), frame[inner, inner].ravel())[0, 1] > 0.9


def test_batches_depend_on_the_step_alone_and_keep_input_and_target_aligned(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path))
    pairs = make_pairs(recipe, tmp_path)
    batches = StoredBatches(pairs, recipe.optics, CPU)
    one, _, phase = batches.draw(3, np.random.default_rng([1, 7]))
    two, _, _ = batches.draw(3, np.random.default_rng([1, 7]))
    torch.testing.assert_close(one, two, atol=0, rtol=0)
    assert one.shape == (3, 1, 32, 32)
    assert phase.shape == (3, 1, 128, 128)
    # Symmetries must turn both sides alike: the focal-plane contrast then stays anti-correlated with phase.
    quiet = recipe.optics.model_copy(update={"noise_sd": (1e-6, 2e-6), "shading": 0.0})
    flat = pairs.phase_rad.astype(np.float32).reshape(4, 32, 4, 32, 4).mean(axis=(2, 4))
    marked = replace(pairs, intensity=1 - 0.1 * flat, level=np.ones_like(pairs.level))
    inputs, _, targets = (part.numpy() for part in StoredBatches(marked, quiet, CPU).draw(8, np.random.default_rng(0)))
    binned = targets.reshape(8, 32, 4, 32, 4).mean(axis=(2, 4))
    for frame, truth in zip(inputs[:, 0], binned, strict=True):
        assert np.corrcoef(frame.ravel(), truth.ravel())[0, 1] < -0.98


def test_generated_batches_are_the_forward_model_and_depend_on_the_step_alone(tmp_path: Path) -> None:
    text = RECIPE.replace("[data]", "[data]\ngenerated = true").replace(
        "[optics]", "[optics]\nnoise_sd = [1e-6, 2e-6]\nshading = 0.0\nkappa_per_rad = [0.0, 0.0]"
    )
    recipe = load_recipe(write_recipe(tmp_path, text=text))
    batches = GeneratedBatches(recipe, CPU)
    inputs, conditions, truth = batches.draw(6, np.random.default_rng([1, 3]))
    again, _, _ = batches.draw(6, np.random.default_rng([1, 3]))
    torch.testing.assert_close(inputs, again, atol=0, rtol=0)
    assert inputs.shape == (6, 1, 32, 32)
    assert truth.shape == (6, 1, 128, 128)
    assert inputs.dtype == truth.dtype == conditions.dtype == torch.float32
    judged = 0
    for frame, told, phase in zip(inputs[:, 0], conditions, truth[:, 0], strict=True):
        if float(phase.std()) < 0.3:
            continue
        defocus_um = float(told[0]) * 2.6**2 / 0.55
        expected = bin_pixels(intensity(phase, OpticalSetup(), defocus_um), 4)
        inner = slice(8, -8)
        pair = torch.stack([expected[inner, inner].ravel(), frame[inner, inner].ravel()])
        assert float(torch.corrcoef(pair)[0, 1]) > 0.9
        judged += 1
    assert judged


def test_a_recipe_with_generated_batches_trains(tmp_path: Path, small_validation: None) -> None:
    text = RECIPE.replace("[data]", "[data]\ngenerated = true")
    card = train(write_recipe(tmp_path, steps=2, text=text), tmp_path / "run", device="cpu")
    assert card.training["steps"] == 2
    assert not list((tmp_path / "run").glob("pairs-*"))


def test_ssim_is_that_of_scikit_image_and_of_the_loss() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((96, 96)).cumsum(0).cumsum(1)
    truth = (3 * truth / truth.max()).astype(np.float32)
    estimate = truth + 0.1 * rng.standard_normal(truth.shape).astype(np.float32)
    compared: object = structural_similarity(
        truth, estimate, data_range=float(np.ptp(truth)), gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    reference = cast("float", compared)
    assert ssim(estimate, truth) == pytest.approx(reference, abs=2e-4)
    x, y = (torch.from_numpy(image)[None, None] for image in (estimate, truth))
    structural = 2 * (PhaseLoss()(x, y) - (x - y).abs().mean())
    assert float(structural) == pytest.approx(1 - reference, abs=2e-4)


def test_figures_of_merit_in_known_cases() -> None:
    y, x = np.mgrid[:128, :128]
    truth = np.sin(2 * np.pi * x / 32) + np.sin(2 * np.pi * y / 8)
    assert ssim(truth, truth) == pytest.approx(1)
    assert rmse_rad(truth + 0.2, truth) == pytest.approx(0.2)
    assert psnr_db(truth + 0.01 * np.ptp(truth), truth) == pytest.approx(40)
    # A pixel of 0.65 um: periods of 20.8 um and 5.2 um. An estimate without the short period fails in its band only.
    bands = nrmse_by_period(np.sin(2 * np.pi * x / 32), truth, 0.65)
    assert bands[1] < 0.05
    assert bands[3] == pytest.approx(1, abs=0.05)


def test_learning_rate_warms_up_holds_and_falls() -> None:
    rates = [learning_rate(step, 1000, 1.0) for step in range(1000)]
    assert rates[0] < 0.01
    assert rates[400] == 1.0
    assert rates[-1] == pytest.approx(0.03)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not toml at all [", "not valid TOML"),
        (RECIPE.replace("width = 8", "width = 8\ndepth = 3"), "architecture.depth"),
        (RECIPE.replace("[data]", '[data]\nreal_folder = "nowhere"'), "holds no .npz files"),
        (RECIPE.replace("[data]", '[data]\ngenerated = true\nmeasured_folder = "."'), "measured_folder are stored"),
    ],
)
def test_a_wrong_recipe_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text.replace("{steps}", "2"), encoding="utf-8")
    with pytest.raises(ConfigurationError, match=message):
        load_recipe(path)


def test_a_checkpoint_of_other_data_is_refused(tmp_path: Path, small_validation: None) -> None:
    train(write_recipe(tmp_path, steps=2), tmp_path / "run", device="cpu")
    other = write_recipe(tmp_path, steps=4, text=RECIPE.replace("[data]", "[data]\nseed = 2"))
    with pytest.raises(ModelError, match="made from other data"):
        train(other, tmp_path / "run", device="cpu")


def test_the_papers_sets_are_a_source_of_pairs_that_are_not_made_noisy_again(tmp_path: Path) -> None:
    paper = "[data]\nsimulated_fields = 0\npatch_lr_px = 64\n[data.paper]\ndefocus_um = [6.0]\npairs_of_each = 8\n"
    text = RECIPE.replace("[data]\nsimulated_fields = 1\npairs_for_each_field = 4\npatch_lr_px = 32\n", paper)
    recipe = load_recipe(write_recipe(tmp_path, text=text))
    pairs = make_pairs(recipe, tmp_path)
    assert pairs.recorded.all()
    assert len(pairs) == 8
    np.testing.assert_allclose(pairs.conditions, np.tile([0.55 * 6 / 2.6**2, 0, 1], (8, 1)), atol=1e-5)
    inputs, _, _ = StoredBatches(pairs, recipe.optics, CPU).draw(4, np.random.default_rng(0))
    drawn = np.sort(inputs[0, 0].numpy().ravel())
    assert any(np.allclose(drawn, np.sort(10 * (frame - 1).ravel()), atol=1e-4) for frame in pairs.intensity)


def test_training_goes_on_from_a_model_file_of_the_same_architecture(tmp_path: Path, small_validation: None) -> None:
    train(write_recipe(tmp_path, steps=2), tmp_path / "first", device="cpu")
    first = tmp_path / "first" / "tiny-1.safetensors"
    text = RECIPE.replace("[training]", '[training]\ninitial_model = "first/tiny-1.safetensors"')
    recipe = load_recipe(write_recipe(tmp_path, steps=2, text=text))
    assert recipe.training.initial_model == first
    started = start_network(recipe).state_dict()
    for name, value in load_network(first)[0].state_dict().items():
        torch.testing.assert_close(started[name], value)
    card = train(write_recipe(tmp_path, steps=2, text=text), tmp_path / "second", device="cpu")
    assert card.training["initial_model_sha256"] == read_card(first).sha256
    wider = load_recipe(write_recipe(tmp_path, text=text.replace("width = 8", "width = 16")))
    with pytest.raises(ModelError, match="the recipe asks for"):
        start_network(wider)
