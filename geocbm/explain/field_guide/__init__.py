"""Field guide: what gives a country away, and where a concept leads (notebook 09)."""
