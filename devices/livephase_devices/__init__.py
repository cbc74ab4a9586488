"""Hardware of a livephase microscope and its simulation; knows nothing of the service."""
