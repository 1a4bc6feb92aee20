"""The study of docs/results/verdict/protocol.md, from nothing: ``python -m benchmarks.verdict``."""
