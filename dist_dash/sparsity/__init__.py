"""Which weights exist: masks on a member's parameters, and how they change while it is trained.

May import `member` and everything below. Start with `sparsity.py`.
"""

from dist_dash.sparsity.sparsity import Dense, Sparsity

__all__ = ["Dense", "Sparsity"]
