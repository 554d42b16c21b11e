"""Files on any fsspec store, and the store itself: found, opened, read on after its bad moments, asked what it can."""
