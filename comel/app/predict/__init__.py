"""``comel predict``: its inputs, the prediction of each slide, and the files it writes."""
