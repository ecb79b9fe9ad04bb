"""Faults on purpose: kills, full disks, lost inputs, two of everything; `python -m faults` counts what is lost."""
