"""Measurements: each prints its hardware, compares with a baseline in the same run, and repeats."""
