"""Detectors for other runtimes: export, and running what was exported."""
