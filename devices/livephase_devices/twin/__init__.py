"""The simulated microscope: specimen, camera and lens; it knows the true phase."""
