"""The HTTP service: one application over `Request`, one worker that samples."""
