"""The data room: tables and other sources read, split, described, and encoded; `sources` and `feeds` give batches."""
