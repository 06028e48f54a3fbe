"""The networks that ConsistentID adds: identity tokens, facial encoder, perceiver resampler."""
