"""What is tried next: Ray Tune's searcher over Optuna's samplers, and a comparison's plan."""
