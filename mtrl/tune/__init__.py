"""Population-based search of task weights, and sweeps, on Ray. Only `on_ray.py` imports Ray.

`evolution` decides, `member` trains and copies, `search` keeps the books, `report` writes what was found.
"""
