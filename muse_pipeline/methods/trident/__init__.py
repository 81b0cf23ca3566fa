"""TriDeNT (arXiv 2312.02111) and More From Less: train an H&E backbone with a partner that is not
needed later.
"""
