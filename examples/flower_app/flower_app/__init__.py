"""Handwritten digits, trained by Flower under secure aggregation."""
