"""Presets: the networks and settings that belong together, read, loaded and examined."""
