"""TriDeNT (arXiv 2312.02111) and More From Less: an H&E backbone learns from a partner that is missing later."""
