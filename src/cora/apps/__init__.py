"""What people run: one file per use, and the command line over them."""
