"""The report: the runs of recipes, read from their logs, compared, and shown. Judges, so it needs no torch.

For others: runs.read_runs and RecipeRuns; comparison.read_comparison; answers.one, pair, power and plan;
curves; page.page, table.markdown and markdown_table, picture.draw.
"""
