"""Acquisition: plans, the schedule and the runner of a run."""
