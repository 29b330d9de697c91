"""Recipes in modded-nanogpt's optimization track. script.export_script writes the script (sections: what
it says; source: our definitions in it; driver: its optimizer). submission.draft makes the folder to submit
from the logs of its runs (evidence: what they show).
"""
