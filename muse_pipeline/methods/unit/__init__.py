"""UNITPathSSL: translation between masks and tissue, unpaired, as pretraining and as a label-free detector."""
