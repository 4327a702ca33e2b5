"""Video: frames in, tracks out."""
