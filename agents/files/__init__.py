"""Files of agents and policies, and readers for files of unknown origin."""
