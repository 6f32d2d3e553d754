"""Public training scripts, written afresh: as a hand-written loop, and by `luthier.fit`."""
