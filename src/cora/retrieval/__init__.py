"""Search: regions of a folder of pictures, found again by words or by a picture."""
