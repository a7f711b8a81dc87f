"""Forms of a check for other programs: `junit` (JUnit XML) and `github` (annotations and the summary of a job)."""
