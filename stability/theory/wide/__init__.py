"""Wide networks: mean-field theory and random matrices."""
