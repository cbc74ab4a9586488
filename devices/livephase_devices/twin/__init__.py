"""The simulated microscope: specimen, camera and lens; it knows the true phase."""

from livephase_devices.twin.world import truth_phase_rad

__all__ = ["truth_phase_rad"]
