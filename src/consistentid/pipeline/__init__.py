"""Networks put together: identify, generate, score."""
