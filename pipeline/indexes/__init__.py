"""Indexes: which kind fits, how it is built and kept up, and what it is worth, measured."""
