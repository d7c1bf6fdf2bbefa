"""Privacy: the one way a number that depends on both sides leaves.

Lives here: noise, threshold and rounding of released counts, and what a question costs.
Add here when something else about both sides is published.
Keep out: counting, and keeping what was spent (`catalog`).
"""
