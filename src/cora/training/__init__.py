"""Training: tasks turn a batch into losses, the loop knows nothing of detection."""
