"""Every HTML page that is written: templates and one stylesheet, put together into files that stand alone."""
