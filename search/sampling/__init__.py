"""What is tried next: Optuna's samplers behind Ray Tune's searcher, and the plan of a
comparison."""
