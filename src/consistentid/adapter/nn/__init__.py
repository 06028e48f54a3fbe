"""The adapter's networks: pure functions of tensors, sizes from the spec, no state between calls."""
