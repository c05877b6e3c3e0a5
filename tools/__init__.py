"""What was needed once: the backbone of the atlas, the borders of countries."""
