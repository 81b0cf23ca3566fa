"""UNITPathSSL: unpaired translation between masks and tissue, for pretraining and for label-free
detectors.
"""
