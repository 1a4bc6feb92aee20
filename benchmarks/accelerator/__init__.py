"""Everything that docs/performance.md calls unmeasured on an accelerator, within eight minutes.

``python -m benchmarks.accelerator --out DIR``. Every part runs in a process of its own, within a time limit of its own,
and writes each row as soon as it has it. The same command resumes: rows that are there are not measured again.
"""
