"""`luthier serve`: answers of models over HTTP."""
