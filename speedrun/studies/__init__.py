"""Studies: many runs that answer one question, from records/studies/NAME/study.toml to the pages of its logs.

For others: file.read_study and names; study.resolved; publish.Studies, run, write, wrong and listing;
figures.figures. docs/studies.md says how to run and add one.
"""
