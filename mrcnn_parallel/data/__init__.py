"""Data: datasets, images, masks, boxes and targets in NumPy, and the loader that feeds training."""
