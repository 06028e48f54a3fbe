"""Networks of bases that were trained here. Saved bases name these modules, so they stay where they are."""
