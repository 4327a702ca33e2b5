"""Annotated images as training batches: splits, COCO files, augmentation, loading, cached features."""
