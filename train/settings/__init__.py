"""What a run is told: the configuration, its YAML and the command line."""
