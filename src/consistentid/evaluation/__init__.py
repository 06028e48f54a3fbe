"""Measuring likeness and adherence to the prompt."""
