"""The embedded default: a small trained BridgeTower and the scenes it understands."""
