"""The tests, in the rooms of the package that they test; what several share lies at the top."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
