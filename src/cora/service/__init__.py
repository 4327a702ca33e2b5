"""The HTTP service and its web page; requests that come at the same time share batches."""
