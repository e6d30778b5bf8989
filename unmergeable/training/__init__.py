"""Training: so far, the ordinary fine-tuning that makes experts to protect and to merge."""
