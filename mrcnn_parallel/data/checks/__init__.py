"""Checks of a dataset before it is trained on; `python -m mrcnn_parallel inspect` runs them.

images.py    one image: its file, its instances, its numbers
outlines.py  polygons: outside of the image, crossing themselves
report.py    all images in threads, and what was found as text and JSON
figures.py   histograms and the contact sheet
"""
