"""The lab of the course: what a notebook shows and nobody needs to read.

Figures, memory budgets, the dashboard, widgets, the set-up cell's other half, and the
checks of the exercises. The lab imports the engine (`helpers/*.py`), never the reverse.
"""
