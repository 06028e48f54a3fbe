"""The drawn world: people and scenes, data sets and pools of them, and what reads a scene."""
