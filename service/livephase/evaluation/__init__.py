"""Evaluation: the paper's figures reproduced on open data, and the shipped models judged on measured data."""
