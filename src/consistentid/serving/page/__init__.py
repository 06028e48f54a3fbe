"""The web page, a Gradio application: it asks the `Service`, and everything of a visit is kept by the browser alone."""

from pathlib import Path

STATIC = Path(__file__).parent / "static"
"""Its scripts and styles."""
