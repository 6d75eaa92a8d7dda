"""``comel predict``: what it is given, the slides one by one, and the files it writes."""
