"""The machinery between K task losses and one step: what a balancer is, what it sees, and who calls it."""
