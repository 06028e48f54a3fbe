"""The method: ConsistentID as an adapter of unmodified diffusers pipelines."""
