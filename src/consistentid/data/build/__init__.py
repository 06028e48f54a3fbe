"""A data set made of folders of photos."""
