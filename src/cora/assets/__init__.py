"""Files that ship with the package: the embedded model and its card."""
