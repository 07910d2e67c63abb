"""The compiled loops of this room, a file a kind."""
