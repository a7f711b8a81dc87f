"""What other programs read of a check: `junit` (JUnit XML) and `github` (annotations and the summary of a job)."""
