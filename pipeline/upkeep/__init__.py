"""What is done to a table beside and after its runs: checked, mended, compacted."""
