"""Inference: a spawned worker process behind shared memory."""
