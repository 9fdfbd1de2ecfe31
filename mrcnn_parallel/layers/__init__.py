"""Layers without weights that join the networks: proposals, targets, detections, losses."""
