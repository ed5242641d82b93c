"""Questions to finished runs: scores again (`evaluate.py`), flatness of the minima, scores under shifted data.

May import `training` and everything below. Start with `evaluate.py`.
"""
