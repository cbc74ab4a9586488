"""A model's card as a person reads it; ``--json`` has everything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from livephase.phase.modelfile import ModelCard, Range

_LABEL = 15


def card_text(card: ModelCard) -> str:
    """Return what the model is, where it is valid, what it was trained on, and its figures, line by line."""
    return "\n".join([*_facts(card), "", *_figures(card.figures)])


def _facts(card: ModelCard) -> Iterator[str]:
    training = card.training
    recipe: dict[str, Any] = training.get("recipe") or {}
    valid = card.valid
    yield _line("model", f"{card.name} {card.version}")
    yield _line("network", f"{card.architecture.name}, width {card.architecture.width}, {card.scale} times the pixels")
    yield _line("sha256", card.sha256)
    yield _line("licence", card.licence)
    if card.objective_na is not None:
        yield _line("objective NA", f"{card.objective_na:g}")
    yield _line("defocus um", _span(valid.defocus_um))
    yield _line("wavelength um", _span(valid.wavelength_um))
    yield _line("camera pixel um", f"{_span(valid.lr_pixel_um)} (at the specimen)")
    yield _line("S", _span(valid.coherence))
    yield _line("noise sd", _span(valid.noise_sd))
    if "steps" in training:
        batch = recipe.get("training", {}).get("batch")
        yield _line("training", f"{training['steps']} steps" + (f" of {batch} pairs" if batch else ""))
    if training.get("initial_model_sha256"):
        yield _line("began from", f"model {training['initial_model_sha256'][:12]}")
    for key, label in (("real_files", "measured phase"), ("measured_files", "measured objects")):
        if training.get(key):
            yield _line(label, ", ".join(training[key]))
    if training.get("data_sha256"):
        yield _line("data sha256", training["data_sha256"])
    if card.misfit is None:
        yield _line("misfit", "not calibrated: its phases are not judged")
    else:
        yield _line("misfit", f"doubtful above {card.misfit.threshold:.2f}, from {card.misfit.frames} matched frames")


def _figures(figures: dict[str, Any]) -> Iterator[str]:
    """Make a table of the test sets; what is not one is a line above it."""
    conditions = dict(figures.get("conditions") or {})
    bands = conditions.pop("period_bands_um", [])
    if conditions:
        yield "figures at " + ", ".join(f"{name} {value}" for name, value in conditions.items())
    rows: list[tuple[str, ...]] = [
        ("test set", "fields", "SSIM", "PSNR dB", "RMSE rad", *(f"NRMSE {band} um" for band in bands))
    ]
    for name, row in figures.items():
        if name != "conditions" and isinstance(row, dict) and "ssim" in row:
            by_period = row.get("nrmse_by_period", [])
            numbers = [row["ssim"], row.get("psnr_db"), row.get("rmse_rad"), *by_period]
            rows.append((name, str(row.get("fields", "")), *("" if n is None else f"{n:.4g}" for n in numbers)))
    if len(rows) == 1:
        yield "no figures"
        return
    columns = max(map(len, rows))
    padded = [row + ("",) * (columns - len(row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*padded, strict=True)]
    for first, *rest in padded:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))]
        yield "  ".join(cells).rstrip()


def _line(label: str, value: str) -> str:
    return f"{label:{_LABEL}}  {value}"


def _span(limits: Range) -> str:
    return f"{limits[0]:g} to {limits[1]:g}"
