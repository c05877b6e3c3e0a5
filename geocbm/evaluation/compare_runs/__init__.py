"""Runs side by side: what was set differently, which metrics differ, and whether by more than noise.

Everything is read from what runs leave behind (`manifest.json`, `metrics.json`, `predictions.parquet`,
`concept_scores.npz`, `history_stage*.parquet`), so that a run can be compared long after its features are gone.
"""
