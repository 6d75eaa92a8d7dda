"""Slides to bags: reading, tissue, tiles, patch encoders, and the cohort batch."""
