"""Training. A task turns a batch into losses; the loop runs any task and does not depend on detection."""
