"""Live, pixel-super-resolved quantitative phase from one defocused bright-field frame."""

from importlib.metadata import version

__version__ = version("livephase")
