"""The method: losses, bottlenecks, attention and the models of the three stages."""
