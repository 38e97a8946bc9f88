"""Manifests, strings of words joined from recordings, augmentation and batches."""
