"""What the toolkit costs beside what a user would take instead: ratios, measured in turns within one process run."""
