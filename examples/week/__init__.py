"""A week of sample history with what Burnguard makes of it; `python -m examples.week` writes it again."""
