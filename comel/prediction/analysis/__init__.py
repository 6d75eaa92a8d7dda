"""What a network does with a bag: which heads and branches matter, how far heads look, and the patterns they form.

After the questions of Li et al., "How Does Attention Work in Vision Transformers?" (IEEE TVCG 2023, arXiv 2303.13731). The
abstract alone is followed: the definitions are these modules' own.
"""
