"""Training of the adapter, and of the drawn preset's own networks."""
