"""Finished runs against one another: groups over seeds, paired differences with intervals, cost, verdicts.

May import `analysis` and everything below. Start with `grouping.py`.
"""

from dist_dash.comparison.grouping import Comparison, load_comparison
from dist_dash.comparison.machine_readable import as_csv, as_json
from dist_dash.comparison.markup import as_latex, as_markdown
from dist_dash.comparison.paired import Difference, Summary
from dist_dash.comparison.section import Best, Group, Section
from dist_dash.comparison.verdict import verdict

__all__ = [
    "Best",
    "Comparison",
    "Difference",
    "Group",
    "Section",
    "Summary",
    "as_csv",
    "as_json",
    "as_latex",
    "as_markdown",
    "load_comparison",
    "verdict",
]
