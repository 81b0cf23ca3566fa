"""TriDeNT (arXiv 2312.02111) and More From Less: an H&E backbone is trained with a partner that is not needed later."""
