"""Benchmarks of quality, speed and privacy against common practice.

Lives here: tasks with known results, baselines and peers, the benchmarks of quality, scale, set algebra and
serving, privacy attacks, and their result tables.
Add here when a baseline, a kind of task or an attack is missing.
Keep out: settings tuned to one data set; the model has the same settings for all.
"""
