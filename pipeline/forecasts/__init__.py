"""The parts of a forecast: a sample of the shards, what follows from it, and what the cluster makes of it."""
