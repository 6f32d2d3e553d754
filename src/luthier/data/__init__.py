"""Files read, split, described and encoded; batches."""
