"""Benchmarks: how good, how fast and how private the product is, against what people do today.

Lives here: tasks with a known answer, baselines and peers, the benchmarks of quality, scale, algebra and
serving, the attacks, and their tables.
Add here when a baseline, a kind of task or an attack is missing.
Keep out: settings tuned to a data set; the model has one set of settings for all.
"""
