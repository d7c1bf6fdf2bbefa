"""How good and how fast the audience model is, against what people do today.

Lives here: tasks with a known answer, baselines, the quality and the scale benchmark, their tables.
Add here when a baseline or a kind of task is missing.
Keep out: settings tuned to a data set; the model has one set of settings for all.
"""
