"""From a source to a model: plan, train, resume, report, compare."""
