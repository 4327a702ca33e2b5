"""The HTTP service: requests gathered into batches, and the page."""
