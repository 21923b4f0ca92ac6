"""Results: records and their file, the table of figures, and the conditions under which figures may be compared."""
