"""``comel bench mixers``: what each mixer keeps to, what it costs, and what it gives on one's own suites.

After the protocol of CAB (Zhang et al., ICML 2023, arXiv 2210.07661): one network, one budget, the mixer alone exchanged.
"""
