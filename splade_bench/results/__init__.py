"""What was measured: records, their file, their figures, and what may be compared."""
