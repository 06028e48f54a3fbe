"""Files, pictures, processes and devices: the one way to handle each."""
