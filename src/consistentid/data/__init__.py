"""Data sets: the records, the drawn portraits, reading and writing."""
