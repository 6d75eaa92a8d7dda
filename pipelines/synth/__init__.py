"""Computer-generated cohorts for trying the software: H&E-like pyramids, slide labels, tumour masks and a manifest.

Nothing here is tissue. A model trained on such images says something about the software, nothing about pathology.
"""
