"""A run's report: one HTML page beside the table, with plots and pictures, which needs no network."""
