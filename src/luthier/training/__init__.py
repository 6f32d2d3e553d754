"""fit: the loop, callbacks, checkpoints, record, replay."""
