"""The tests, in folders that mirror the rooms of the package; shared helpers are at the top."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
