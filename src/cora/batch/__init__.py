"""Many pictures: sharded, resumable, each exactly once."""
