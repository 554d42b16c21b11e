"""What watches a run: its pulse, its progress, what it may lose, and the signals that end it."""
