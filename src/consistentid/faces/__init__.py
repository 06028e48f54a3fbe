"""What is known of a face: where it is, whose it is, and which pixels belong to which part."""
