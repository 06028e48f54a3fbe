"""What `evaluate` writes: tables, charts, cases, one page."""
